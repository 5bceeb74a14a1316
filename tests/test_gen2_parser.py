"""The grammar of the Gen2 command line: words in, arguments out."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsst.twinkles.diffim.cli.argument_files import ArgumentFileError, expand_argument_files
from lsst.twinkles.diffim.cli.gen2_ids import DataIdSyntaxError, parse_id_words
from lsst.twinkles.diffim.cli.gen2_parser import ConfigOverride, Gen2ArgumentParser


@pytest.fixture
def repo(tmp_path, monkeypatch):
    for variable in ("PIPE_INPUT_ROOT", "PIPE_CALIB_ROOT", "PIPE_OUTPUT_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    path = tmp_path / "repo"
    path.mkdir()
    return str(path)


def parse(*words):
    return Gen2ArgumentParser("imageDifference.py", "Subtract.").parse(list(words))


def refuse(*words):
    """Return the status and the message with which a command line is refused."""
    stderr = io.StringIO()
    with pytest.raises(SystemExit) as caught, redirect_stderr(stderr), redirect_stdout(io.StringIO()):
        parse(*words)
    return caught.value.code, stderr.getvalue()


# Data ids ------------------------------------------------------------------------------------


def values(text):
    return [data_id["k"] for data_id in parse_id_words([f"k={text}"])]


def test_documented_examples():
    assert values("0^2..4^7..9") == ["0", "2", "3", "4", "7", "8", "9"]
    assert values("1..5:2") == ["1", "3", "5"]
    assert values("1..6:2") == ["1", "3", "5"]
    assert values("3..3") == ["3"]


@pytest.mark.parametrize(
    "text", ["1,2", "R22_S11", "2,2", "1.5", "1..", "..5", "1..5:", "a..b", "-1..3", "1..2..3"]
)
def test_what_is_not_exactly_a_range_is_one_literal(text):
    assert values(text) == [text]


def test_cross_product_varies_the_last_key_fastest():
    assert parse_id_words(["visit=1^2", "raft=a^b"]) == [
        {"visit": "1", "raft": "a"},
        {"visit": "1", "raft": "b"},
        {"visit": "2", "raft": "a"},
        {"visit": "2", "raft": "b"},
    ]


def test_no_word_selects_everything():
    assert parse_id_words([]) == [{}]


def test_only_the_first_equals_sign_divides():
    assert parse_id_words(["k=a=b"]) == [{"k": "a=b"}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["visit"], "key=value"),
        (["=3"], "key=value"),
        (["visit=1", "visit=2"], "visit appears multiple times in one ID argument"),
        (["visit="], "empty value"),
        (["visit=1^^2"], "empty value"),
        (["visit=5..1"], "did you mean 1..5"),
        (["visit=1..5:0"], "stride 0"),
    ],
)
def test_bad_data_ids_are_named(words, message):
    with pytest.raises(DataIdSyntaxError, match=message.replace(".", r"\.")):
        parse_id_words(words)


NAMES = st.sampled_from(["visit", "ccd", "raft", "filter", "detector"])
LITERALS = st.text(alphabet="abR_,.:;0123456789+-=@#", min_size=1, max_size=6).filter(
    # A literal must not happen to be a range; decided here by hand, not by the parser's expression.
    lambda text: (
        not all(part.strip("0123456789") == "" for part in text.replace(":", "..", 1).split(".."))
        or ".." not in text
    )
)
RANGES = st.tuples(st.integers(0, 40), st.integers(0, 6), st.integers(1, 4), st.booleans())


@st.composite
def id_words(draw):
    """Words of one --id, with their meaning built by counting rather than by parsing."""
    words, meaning = [], [[]]
    for key in draw(st.lists(NAMES, unique=True, max_size=3)):
        texts, members = [], []
        for item in draw(st.lists(st.one_of(LITERALS, RANGES), min_size=1, max_size=3)):
            if isinstance(item, str):
                texts.append(item)
                members.append(item)
                continue
            first, length, stride, spell_stride = item
            if not spell_stride:
                stride = 1
            texts.append(f"{first}..{first + length}" + (f":{stride}" if spell_stride else ""))
            members += [
                str(n) for n in range(60) if first <= n <= first + length and (n - first) % stride == 0
            ]
        words.append(f"{key}={'^'.join(texts)}")
        meaning = [[*pairs, (key, member)] for pairs in meaning for member in members]
    return words, [dict(pairs) for pairs in meaning]


@given(id_words())
def test_grammar_means_what_counting_says(case):
    words, meaning = case
    assert parse_id_words(words) == meaning


@given(st.lists(id_words(), min_size=1, max_size=3))
def test_several_ids_are_put_one_after_the_other(cases):
    words = []
    for case in cases:
        words += ["--id", *case[0]]
    parsed = parse("/", *words, "--output", "out")
    assert list(parsed.ids) == [data_id for case in cases for data_id in case[1]]


@given(st.lists(st.text(alphabet="visit=^.:0123456789ab", max_size=12), max_size=3))
def test_any_text_is_expanded_or_refused_with_a_sentence(words):
    try:
        result = parse_id_words(words)
    except DataIdSyntaxError as error:
        assert len(str(error)) > 10
    else:
        assert result
        assert all(value for data_id in result for value in data_id.values())


# Options -------------------------------------------------------------------------------------


def test_the_cookbooks_command(repo):
    parsed = parse(
        *[
            repo,
            "--id",
            "visit=230",
            "--templateId",
            "visit=250",
            "--output",
            "/tmp/OUT",
            "--configfile",
            __file__,
        ]
    )
    assert parsed.repo == repo
    assert parsed.ids == ({"visit": "230"},)
    assert parsed.template_ids == ({"visit": "250"},)
    assert parsed.output == "/tmp/OUT"
    assert parsed.overrides == (ConfigOverride("file", __file__),)
    assert (parsed.processes, parsed.timeout, parsed.do_raise, parsed.no_exit) == (1, None, False, False)


def test_overrides_keep_their_order_across_options(repo):
    parsed = parse(repo, "--output", "o", "-c", "a=1", "b.c=x=y", "-C", __file__, "--config", "a=2")
    assert parsed.overrides == (
        ConfigOverride("value", "a", "1"),
        ConfigOverride("value", "b.c", "x=y"),
        ConfigOverride("file", __file__),
        ConfigOverride("value", "a", "2"),
    )


@pytest.mark.parametrize("option", ["-C", "--configfile", "--config-file"])
def test_spellings_of_configfile(repo, option):
    assert parse(repo, "--output", "o", option, __file__).overrides[0].name == __file__


@pytest.mark.parametrize("first", [[], ["--id", "visit=1"], ["@file"]])
def test_the_input_must_come_first(first):
    status, message = refuse(*first)
    assert status == 2
    assert "Must specify input as first argument" in message
    assert "usage: imageDifference.py REPO [options]" in message


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_alone_needs_no_input(words):
    stdout = io.StringIO()
    with pytest.raises(SystemExit) as caught, redirect_stdout(stdout):
        parse(*words)
    assert caught.value.code == 0
    assert "--templateId" in stdout.getvalue()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no output directory specified"),
        (["--output", "o", "--rerun", "r"], "cannot specify both --output and --rerun"),
        (["--output", "o", "-c", "novalue"], "must be in form name=value"),
        (["--output", "o", "-C", "/nowhere/conf.py"], "cannot find configuration file '/nowhere/conf.py'"),
        (["--output", "o", "-L", "loud"], "log level 'loud' not in ['trace'"),
        (["--output", "o", "-j", "0"], "0 is not at least 1"),
        (["--output", "o", "-j", "two"], "invalid"),
        (["--output", "o", "-t", "-3"], "argument -t/--timeout"),
        (["--output", "o", "--id", "visit"], "argument --id: 'visit' must be in form key=value"),
        (["--output", "o", "--templateId", "visit=2..1"], "argument --templateId: range 2..1"),
        (["--output", "o", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["--output", "o", "@/nowhere/args"], "cannot read argument file /nowhere/args"),
        (["--show", "config", "--clobber-output"], "--clobber-output is only valid with"),
    ],
)
def test_wrong_command_lines_have_status_2(repo, words, message):
    status, text = refuse(repo, *words)
    assert status == 2
    assert message in text


def test_input_that_is_not_there():
    status, message = refuse("/nowhere/repo", "--output", "o")
    assert status == 2
    assert "input '/nowhere/repo' not found" in message


def test_clobbering_the_input_is_refused(repo):
    status, message = refuse(repo, "--output", repo, "--clobber-output")
    assert status == 2
    assert "not valid when the output is the input" in message


@pytest.mark.parametrize("word", ["nonsense", "config=", "history", "history=", "run=1", "data=x"])
def test_unknown_word_of_show_has_status_1(repo, word):
    status, message = refuse(repo, "--output", "o", "--show", word)
    assert status == 1
    assert f"Unknown value for show: {word!r}" in message


def test_show_words_and_whether_to_go_on(repo):
    parsed = parse(repo, "--show", "config=*Noise*", "history=doMerge", "--show", "tasks", "data")
    assert parsed.show == ("config=*Noise*", "history=doMerge", "tasks", "data")
    assert parsed.show_only
    assert not parse(repo, "--output", "o", "--show", "data", "run").show_only
    assert not parse(repo, "--output", "o").show_only


def test_log_levels(repo):
    parsed = parse(repo, "--output", "o", "-L", "DEBUG", "lsst.daf.butler=Warn", "--longlog")
    assert parsed.log_levels == (("", "debug"), ("lsst.daf.butler", "warn"))
    assert parsed.long_log


def test_run_and_guard_options(repo):
    options = ["--doraise", "--noExit", "--debug", "--clobber-config", "--no-backup-config"]
    options += [
        "--clobber-versions",
        "--no-versions",
        "--clobber-output",
        "-j",
        "3",
        "-t",
        "60.5",
        "--profile",
        "p",
    ]
    parsed = parse(repo, "--rerun", "a:b", "--calib", "cal", *options)
    assert parsed.do_raise and parsed.no_exit and parsed.debug
    assert parsed.clobber_config and parsed.no_backup_config
    assert parsed.clobber_versions and parsed.no_versions and parsed.clobber_output
    assert (parsed.processes, parsed.timeout, parsed.profile, parsed.rerun) == (3, 60.5, "p", "a:b")


def test_roots_from_the_environment(tmp_path, repo, monkeypatch):
    monkeypatch.setenv("PIPE_INPUT_ROOT", str(tmp_path))
    monkeypatch.setenv("PIPE_OUTPUT_ROOT", str(tmp_path / "outputs"))
    monkeypatch.setenv("PIPE_CALIB_ROOT", str(tmp_path / "calib"))
    parsed = parse("repo", "--output", "night1")
    assert parsed.repo == repo
    assert parsed.output == str(tmp_path / "outputs" / "night1")
    assert parsed.calib == str(tmp_path / "calib")
    assert parse(repo, "--output", "/abs").output == "/abs"


# Argument files ------------------------------------------------------------------------------


def test_argument_files_are_spliced_in_place(tmp_path, repo):
    inner = tmp_path / "inner.args"
    inner.write_text("-c b=2 # a comment\n\n# whole line\n")
    outer = tmp_path / "outer.args"
    outer.write_text(f'--id visit=1^2 "sensor=1,1"\n@{inner}\n')
    parsed = parse(repo, "-c", "a=1", f"@{outer}", "--output", "o", "-c", "c=3")
    assert [override.name for override in parsed.overrides] == ["a", "b", "c"]
    assert parsed.ids == ({"visit": "1", "sensor": "1,1"}, {"visit": "2", "sensor": "1,1"})


def test_argument_file_that_includes_itself(tmp_path):
    path = tmp_path / "loop.args"
    path.write_text(f"@{path}")
    with pytest.raises(ArgumentFileError, match="includes itself"):
        expand_argument_files([f"@{path}"])


def test_argument_file_with_an_open_quote_names_the_line(tmp_path):
    path = tmp_path / "bad.args"
    path.write_text('-c a=1\n-c b="2\n')
    with pytest.raises(ArgumentFileError, match=r"bad\.args, line 2"):
        expand_argument_files([f"@{path}"])


def test_help_imports_nothing_of_the_middleware():
    code = (
        "import sys\n"
        "from lsst.twinkles.diffim.cli.image_difference import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'astropy', 'lsst.pipe', 'lsst.images', 'lsst.daf', 'lsst.pex', 'tqdm'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in result.stdout
