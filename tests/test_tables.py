"""tables.py on small results.csv: means, deviations and gains by hand, the formats character by character, and refusals."""
import csv
from pathlib import Path

import pytest
from PIL import Image

import tables
from hybridrepair.base.errors import run as run_main
from hybridrepair.run import comparison
from hybridrepair.run.table import COLUMNS

FINETUNING = "retrain_lr=0.001 retrain_weightdecay=0.0005 retrain_epoch=10"
ABOUT = ("mean ± standard deviation over seeds (gain over before, n seeds), best of each column in bold, – missing; "
         "before: T2 accuracy (%) before repair")


def row(solution: str, after: float | str, seed: int = 10, settings: str = FINETUNING, weights: str = "aa", **cells) -> dict:
    """A row of results.csv: of Model A on digits, 80 % before and 1 % budget, but for what is given."""
    return {"dataset": "digits", "model": "MobileNet", "model_number": 0, "solution": solution, "p_budget": 1, "seed": seed,
            "settings": f"{settings} weights={weights}", "n_annotated": 8, "n_propagated": 0, "propagation_acc": "", "tau": "",
            "n_unlabelled": 0, "acc_raw": 79, "acc_before": 80, "acc_after": after, "acc_smoothest": "", "acc_best": 99,
            "fixed": 3, "broken": 1, "seconds_load": 1.5, "versions": "python 3", "device": "cpu", "run": "folder"} | cells


def save(path: Path, *rows: dict, columns: tuple[str, ...] = COLUMNS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def tabulate(tmp_path, capsys, monkeypatch):
    """Rows and flags -> what tables.py prints about save/results.csv in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def tabulate(rows: list[dict], *flags) -> str:
        if rows:
            save(Path("save/results.csv"), *rows)
        run_main(tables.main, tables.parse_args([str(flag) for flag in flags]))
        return capsys.readouterr().out
    return tabulate


@pytest.fixture
def refusal(tabulate, capsys):
    """Rows and flags -> the message of tables.py, which must be one line on stderr, with exit status 2 and no output."""
    def refusal(rows: list[dict], *flags) -> str:
        with pytest.raises(SystemExit) as caught:
            tabulate(rows, *flags)
        out, error = capsys.readouterr()
        assert caught.value.code == 2 and not out and error.startswith("error: ") and error.count("\n") == 1
        return error
    return refusal


def cells(text: str) -> list[list[str]]:
    """The rows of a Markdown table below its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")][2:]


def values(text: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """(solution, budget) -> mean, sd, gain and n, of the CSV format."""
    return {(line["solution"], line["p_budget"]): tuple(line[name] for name in ("mean", "sd", "gain", "n"))
            for line in csv.DictReader(text.splitlines())}


# mcp at 1 %: 81, 83: mean 82, deviations -1, 1, sd sqrt(2); hybrid: 83.5, 84.5: mean 84, sd sqrt(0.5); hybrid at 5 %: nothing
SMALL = [row("hybrid", 83.5, 10), row("hybrid", 84.5, 20), row("mcp", 81, 10), row("mcp", 83, 20), row("mcp", 84, p_budget=5)]
CAPTION = (f"T2 accuracy (%) after the last epoch: {ABOUT}. digits, MobileNet, A, retrain_epoch=10, retrain_lr=0.001, "
           "retrain_weightdecay=0.0005. Runs: 5, seeds: 10, 20.")


# formats

def test_label_files_of_several_seeds_make_one_row_and_of_one_seed_several(tmp_path, capsys):
    both = [row("hybrid", after, seed, f"{FINETUNING} labels={digest}") for after, seed, digest in ((82, 10, "aa"), (84, 20, "bb"))]
    save(tmp_path / "one" / "results.csv", *both)
    save(tmp_path / "two" / "results.csv", *both, row("hybrid", 90, 10, f"{FINETUNING} labels=cc"))
    tables.main(tables.parse_args([str(tmp_path / "one")]))
    assert "| hybrid | **83.00 ± 1.41** (+3.00, n=2) |" in capsys.readouterr().out
    tables.main(tables.parse_args([str(tmp_path / "two")]))
    out = capsys.readouterr().out
    assert "labels=aa" in out and "labels=cc" in out and "90.00" in out


def test_markdown(tabulate):
    assert tabulate(SMALL) == r"""| solution | 1 % | 5 % |
| :-- | --: | --: |
| before | 80.00 | 80.00 |
| mcp | 82.00 ± 1.41 (+2.00, n=2) | **84.00** (+4.00, n=1) |
| hybrid | **84.00 ± 0.71** (+4.00, n=2) | – |

""" + CAPTION.replace("_", r"\_") + "\n"


def test_latex(tabulate):
    caption = CAPTION.replace("_", r"\_").replace("%", r"\%").replace("±", r"$\pm$").replace("–", "--")
    assert tabulate(SMALL, "--format", "latex") == r"""\begin{table}  % \usepackage{booktabs}
\centering
\caption{""" + caption + r"""}
\begin{tabular}{lrr}
\toprule
solution & 1 \% & 5 \% \\
\midrule
before & 80.00 & 80.00 \\
mcp & 82.00 $\pm$ 1.41 (+2.00, n=2) & \textbf{84.00} (+4.00, n=1) \\
hybrid & \textbf{84.00 $\pm$ 0.71} (+4.00, n=2) & -- \\
\bottomrule
\end{tabular}
\end{table}
"""


def test_csv_has_a_line_for_each_cell(tabulate):
    assert tabulate(SMALL, "--format", "csv") == """\
dataset,model,model_number,weights,data,p_budget,solution,metric,mean,sd,gain,n
digits,MobileNet,0,,,1,before,acc_before,80,,0,1
digits,MobileNet,0,,,5,before,acc_before,80,,0,1
digits,MobileNet,0,,,1,mcp,acc_after,82,1.41421,2,2
digits,MobileNet,0,,,5,mcp,acc_after,84,,4,1
digits,MobileNet,0,,,1,hybrid,acc_after,84,0.707107,4,2
digits,MobileNet,0,,,5,hybrid,acc_after,,,,0
"""


@pytest.mark.parametrize("form, head, name", [
    ("markdown", r"| solution | my\_set\*, 1 % |", "| a\\|b\\\\ |"),
    ("latex", r"solution & my\_set*, 1 \% \\", r"a|b\textbackslash{} &"),
])
def test_signs_that_a_format_reserves_are_escaped(tabulate, form, head, name):
    text = tabulate([row("a|b\\", 81, dataset="my_set*")], "--format", form, "--columns", "dataset", "p_budget")
    assert head in text.splitlines() and any(line.startswith(name) for line in text.splitlines())


def test_a_loss_has_a_minus_that_latex_sets(tabulate):
    assert r"mcp & \textbf{79.50} ($-$0.50, n=1) \\" in tabulate([row("mcp", 79.5)], "--format", "latex").splitlines()


def test_the_caption_tells_what_all_runs_share(tabulate):
    rows = [row("hybrid", 81, settings=f"{FINETUNING} tao=0.1", dataset="svhn"), row("mcp", 83)]
    assert r". MobileNet, A, 1 %, retrain\_epoch=10, retrain\_lr=0.001, retrain\_weightdecay=0.0005. Runs: 2" in tabulate(rows)


def test_the_caption_tells_where_runs_were_made_if_not_in_one_place(tabulate):
    rows = [row("mcp", 81), row("mcp", 83, 20, device="H100"), row("gini", 83, versions="python 4")]
    text = tabulate(rows)
    assert text.endswith("Runs: 3, seeds: 10, 20. Device: H100 / cpu. Versions: python 3 / python 4.\n")


# cells

def test_a_gain_is_the_mean_over_the_runs_own_accuracies_before(tabulate):
    rows = [row("mcp", 84, 10, acc_before=80), row("mcp", 85, 20, acc_before=82), row("gini", 82.5, 10, acc_before=82)]
    found = values(tabulate(rows, "--format", "csv"))
    assert found["mcp", "1"] == ("84.5", "0.707107", "3.5", "2") and found["gini", "1"] == ("82.5", "", "0.5", "1")
    assert found["before", "1"] == ("81", "1.41421", "0", "2")  # of the two models, not of the three runs
    assert ["before", "81.00 ± 1.41"] in cells(tabulate([]))


@pytest.mark.parametrize("metric, mcp, hybrid", [
    ("acc_after", "**82.00 ± 1.41** (+2.00, n=2)", "79.50 ± 0.71 (−0.50, n=2)"),
    ("acc_best", "88.00 ± 1.41 (+8.00, n=2)", "**89.00 ± 4.24** (+9.00, n=2)"),
    ("acc_smoothest", "–", "**81.50** (+1.50, n=1)"),
    ("gain", "**+2.00 ± 1.41** (n=2)", "−0.50 ± 0.71 (n=2)"),
])
def test_a_metric_counts_the_runs_that_have_it(tabulate, metric, mcp, hybrid):
    rows = [row("mcp", 81, 10, acc_best=87), row("mcp", 83, 20, acc_best=89), row("hybrid", 79, 10, acc_best=86),
            row("hybrid", 80, 20, acc_best=92, acc_smoothest=81.5)]
    text = tabulate(rows, "--metric", metric)
    assert cells(text) == [["before", "80.00"], ["mcp", mcp], ["hybrid", hybrid]]
    assert comparison.METRICS[metric].replace("_", r"\_") in text and ("gain over before" in text) == (metric != "gain")


@pytest.mark.parametrize("after, gain", [(79.996, "+0.00"), (80, "+0.00"), (79.99, "−0.01")])
def test_no_gain_is_shown_without_a_minus(tabulate, after, gain):
    assert f"({gain}, n=1)" in tabulate([row("mcp", after)])


@pytest.mark.parametrize("after, bold", [
    ({"random": 84.001, "gini": 84.004, "mcp": 84.009}, {"mcp"}),
    ({"random": 84.001, "gini": 84.004, "mcp": 83.99}, {"random", "gini"}),  # a tie as shown
    ({"random": 70, "gini": 60}, {"random"}),  # below the accuracy before
])
@pytest.mark.parametrize("metric", ["acc_after", "gain"])
def test_the_best_as_shown_is_bold_with_all_its_ties_and_never_before(tabulate, after, bold, metric):
    found = cells(tabulate([row(solution, value) for solution, value in after.items()], "--metric", metric))
    assert {name for name, cell in found if cell.startswith("**")} == bold


def test_the_best_is_that_of_its_column_in_its_block(tabulate):
    after = {("a", 1, "gini"): 85, ("a", 1, "mcp"): 84, ("a", 5, "gini"): 86, ("a", 5, "mcp"): 87,
             ("b", 1, "gini"): 71, ("b", 1, "mcp"): 72}
    rows = [row(solution, value, dataset=dataset, p_budget=budget) for (dataset, budget, solution), value in after.items()]
    bold = [[cell.startswith("**") for cell in line[2:]] for line in cells(tabulate(rows))]
    assert bold == [[False, False], [True, False], [False, True], [False, False], [False, False], [True, False]]


# rows

def test_solutions_come_in_the_order_of_the_registry_and_unknown_ones_last(tabulate):
    rows = [row(solution, 81) for solution in ("unheard", "hybrid", "another", "mcp", "random", "SSLRandom")]
    names = [name for name, _ in cells(tabulate(rows))]
    assert names == ["before", "random", "mcp", "SSLRandom", "hybrid", "another", "unheard"]


@pytest.mark.parametrize("settings, names", [
    (["tao=0.25 fe=a", "tao=0.1 fe=a"], ["hybrid (tao=0.1)", "hybrid (tao=0.25)"]),
    (["avg_clustersize=10", "avg_clustersize=5"], [r"hybrid (avg\_clustersize=5)", r"hybrid (avg\_clustersize=10)"]),
    (["fe=mocov3 exp=0", "fe=my dir/moco.tar exp=-1"], ["hybrid (exp=-1, fe=my dir/moco.tar)", "hybrid (exp=0, fe=mocov3)"]),
    (["sel_l_data=1 sel_u_data=1", "sel_l_data=1 sel_u_data=0", "sel_l_data=0 sel_u_data=1"],
     [r"hybrid (sel\_l\_data=0, sel\_u\_data=1)", r"hybrid (sel\_l\_data=1, sel\_u\_data=0)",
      r"hybrid (sel\_l\_data=1, sel\_u\_data=1)"]),
    (["tao=0.1", "auto_tao=1"], [r"hybrid (auto\_tao=1)", "hybrid (tao=0.1)"]),
    (["tao=0.1", "tao=0.1 labels=9f"], ["hybrid (labels=file)", "hybrid"]),
])
def test_settings_that_differ_make_rows_which_are_named_by_the_difference(tabulate, settings, names):
    rows = [row("hybrid", 81 + i, settings=f"{FINETUNING} {each}") for i, each in enumerate(settings)]
    found = cells(tabulate([*rows, row("mcp", 81)]))
    assert [name for name, _ in found] == ["before", "mcp", *names]
    assert all("n=1" in cell for _, cell in found[1:])


def test_the_accuracy_before_has_a_row_for_each_fine_tuning_that_it_comes_from(tabulate):
    short = FINETUNING.replace("epoch=10", "epoch=2")
    rows = [row("mcp", 84, acc_before=80), row("mcp", 81, settings=short, acc_before=78), row("hybrid", 83, acc_before=80),
            row("hybrid", 82, settings=f"{short} tao=0.1", acc_before=78)]
    assert cells(tabulate(rows)) == [
        [r"before (retrain\_epoch=2)", "78.00"], [r"before (retrain\_epoch=10)", "80.00"],
        [r"mcp (retrain\_epoch=2)", "81.00 (+3.00, n=1)"], [r"mcp (retrain\_epoch=10)", "**84.00** (+4.00, n=1)"],
        [r"hybrid (retrain\_epoch=2, tao=0.1)", "82.00 (+4.00, n=1)"], [r"hybrid (retrain\_epoch=10)", "83.00 (+3.00, n=1)"]]


@pytest.mark.parametrize("name, text", [("micro_batch", 32), ("builder", "0123456789abcdef"), ("no_replay", 1), ("code", "ab")])
def test_the_accuracy_before_is_not_averaged_over_what_makes_another_start(tabulate, name, text):
    rows = [row("mcp", 84, acc_before=80), row("mcp", 78, settings=f"{FINETUNING} {name}={text}", acc_before=70)]
    found = cells(tabulate(rows))
    assert sorted(line[1] for line in found[:2]) == ["70.00", "80.00"] and all(line[0].startswith("before") for line in found[:2])


def test_images_per_pass_that_cut_no_batch_of_the_start_make_no_other_start(tabulate):
    rows = [row("mcp", 84, acc_before=80), row("hybrid", 83, settings=f"{FINETUNING} micro_batch=71", acc_before=80)]
    assert cells(tabulate(rows))[0] == ["before", "80.00"]


def test_what_the_machine_makes_different_makes_no_row(tabulate):
    there = row("mcp", 83, 20, settings="retrain_epoch=10  retrain_weightdecay=0.0005 retrain_lr=0.001", device="H100",
                versions="python 4", run="elsewhere", seconds_load=9)
    save(Path("there/results.csv"), there, columns=(*reversed(COLUMNS), "comment"))
    found = cells(tabulate([row("mcp", 81)], "save", "there"))
    assert found == [["before", "80.00"], ["mcp", "**82.00 ± 1.41** (+2.00, n=2)"]]


# blocks and columns

def test_several_models_of_one_number_are_kept_apart_by_their_weights(tabulate):
    rows = [row("mcp", 81, weights="aa"), row("mcp", 83, 20, weights="bb")]
    text = tabulate(rows)
    assert "| solution | weights=aa | weights=bb |" in text.splitlines()
    assert cells(text)[1] == ["mcp", "**81.00** (+1.00, n=1)", "**83.00** (+3.00, n=1)"]


def test_weights_are_not_shown_where_each_model_has_its_own(tabulate):
    rows = [row("mcp", 81 + number, weights=weights, model_number=number) for number, weights in enumerate(("aa", "bb", "cc"))]
    text = tabulate(rows)
    assert "| solution | A | B | C |" in text.splitlines() and "weights" not in text


def test_the_data_of_a_model_are_no_column_where_each_model_has_its_own_and_never_by_themselves(tabulate):
    of = {name: f"{FINETUNING} data={name}" for name in ("d1", "d2")}
    rows = [row("mcp", 81, settings=of["d1"]), row("mcp", 83, settings=of["d2"], model="resnet18")]
    assert "| solution | MobileNet | resnet18 |" in (text := tabulate(rows)).splitlines() and "data" not in text
    without = row("mcp", 79, settings=f"{of['d2']} no_replay=1", acc_before=79.5)
    text = tabulate([row("mcp", 81, settings=of["d1"]), without])
    found = [line[1] for line in cells(text)]
    assert "data" not in text and found == ["79.50", "80.00", "79.00 (−0.50, n=1)", "**81.00** (+1.00, n=1)"]
    text = tabulate([row("mcp", 81, settings=of["d1"]), row("mcp", 82, settings=of["d2"])])
    assert "| data | solution | 1 % |" in text.splitlines()


GRID = [row("mcp", 81, dataset=dataset, model_number=number, p_budget=budget)
        for dataset in ("svhn", "digits") for number in (1, 0) for budget in (10, 5, 0.5)]


@pytest.mark.parametrize("flags, head, blocks", [
    ("", "dataset | model_number | solution | 0.5 % | 5 % | 10 %", ["digits A", "digits B", "svhn A", "svhn B"]),
    ("--rows p_budget", "p_budget | dataset | solution | A | B",
     ["0.5 % digits", "0.5 % svhn", "5 % digits", "5 % svhn", "10 % digits", "10 % svhn"]),
    ("--rows model_number solution dataset", "model_number | dataset | solution | 0.5 % | 5 % | 10 %",
     ["A digits", "A svhn", "B digits", "B svhn"]),
    ("--columns dataset", "model_number | p_budget | solution | digits | svhn",
     ["A 0.5 %", "A 5 %", "A 10 %", "B 0.5 %", "B 5 %", "B 10 %"]),
    ("--columns model_number dataset --rows p_budget", "p_budget | solution | A, digits | A, svhn | B, digits | B, svhn",
     ["0.5 %", "5 %", "10 %"]),
    ("--columns model_number p_budget --rows model dataset", "model | dataset | solution | A, 0.5 % | A, 5 % | A, 10 % | "
     "B, 0.5 % | B, 5 % | B, 10 %", ["MobileNet digits", "MobileNet svhn"]),
])
def test_what_differs_makes_columns_and_blocks_of_rows_as_asked(tabulate, flags, head, blocks):
    text = tabulate(GRID, *flags.split())
    assert text.splitlines()[0] == f"| {head} |".replace("_", r"\_")
    depth = len(blocks[0].replace(" %", "%").split())
    assert [" ".join(line[:depth]) for line in cells(text)] == [block for block in blocks for _ in ("before", "mcp")]
    assert "–" not in {cell for line in cells(text) for cell in line}


def test_what_was_never_run_is_missing_in_every_format(tabulate):
    rows = [row("mcp", 81), row("gini", 84, dataset="svhn", p_budget=5)]
    assert cells(tabulate(rows)) == [
        ["digits", "before", "80.00", "–"], ["digits", "gini", "–", "–"], ["digits", "mcp", "**81.00** (+1.00, n=1)", "–"],
        ["svhn", "before", "–", "80.00"], ["svhn", "gini", "–", "**84.00** (+4.00, n=1)"], ["svhn", "mcp", "–", "–"]]
    assert "svhn & mcp & -- & -- \\\\" in tabulate([], "--format", "latex").splitlines()
    assert "svhn,MobileNet,0,,,5,mcp,acc_after,,,,0" in tabulate([], "--format", "csv").splitlines()


def test_blocks_are_ruled_apart_in_latex(tabulate):
    lines = tabulate(GRID, "--rows", "dataset", "--columns", "p_budget", "model_number", "--format", "latex").splitlines()
    rules = [i for i, line in enumerate(lines) if line == r"\midrule"]
    assert [lines[i + 1].split(" & ")[:2] for i in rules] == [["digits", "before"], ["svhn", "before"]]
    assert r"\begin{tabular}{llrrrrrr}" in lines


# files

def test_all_results_in_folders_and_files_are_read_and_each_run_counts_once(tabulate):
    first = save(Path("a/digits_MobileNet/results.csv"), row("mcp", 81, 10))
    save(Path("a/deeper/still/results.csv"), row("mcp", 83, 20), row("mcp", 81, 10))  # a copy among others
    other = save(Path("b/mine.csv"), row("mcp", 85, 30))
    save(Path("a/selected.csv"), {}, columns=("index", "label"))
    text = tabulate([], "a", other, first)
    assert cells(text)[1] == ["mcp", "**83.00 ± 2.00** (+3.00, n=3)"] and "Runs: 3, seeds: 10, 20, 30" in text


def test_output_goes_to_a_file_in_place_of_an_earlier_one(tabulate):
    path = Path("new/table.md")
    for _ in range(2):
        assert tabulate(SMALL, "--output", path) == ""
    assert path.read_text(encoding="utf-8") == tabulate([]) and list(path.parent.iterdir()) == [path]


def test_output_that_cannot_be_written_leaves_the_earlier_file(refusal, monkeypatch):
    path = Path("out/table.md")
    path.parent.mkdir()
    path.write_text("earlier")
    write = Path.write_text

    def fail(self, text, **options):
        write(self, text[:20], **options)
        raise OSError(28, "No space left on device", str(self))
    monkeypatch.setattr(Path, "write_text", fail)
    assert "No space left on device" in refusal(SMALL, "--output", path)
    assert path.read_text() == "earlier" and list(path.parent.iterdir()) == [path]


# plots

def test_a_plot_is_written_as_png(tabulate):
    assert cells(tabulate(SMALL, "--plot", "new/budget.png"))
    with Image.open("new/budget.png") as image:
        assert image.format == "PNG" and image.width > 400 and len(image.convert("L").getcolors()) > 10
    assert [path.name for path in Path("new").iterdir()] == ["budget.png"]


@pytest.mark.parametrize("metric, level, mcp, hybrid", [("acc_after", 80, [82, 84], [84]), ("gain", 0, [2, 4], [4])])
def test_a_plot_shows_mean_and_deviation_over_the_budget(tmp_path, metric, level, mcp, hybrid):
    path = save(tmp_path / "results.csv", *SMALL, row("mcp", 83, model_number=1))
    panels = comparison.plot(comparison.table_of(comparison.read_runs([path]), metric), metric).axes
    assert [panel.get_title() for panel in panels] == ["digits, MobileNet, A", "digits, MobileNet, B"]
    assert list(panels[0].lines[0].get_ydata()) == [level, level]
    lines = [each.lines[0].get_xydata().T.tolist() for each in panels[0].containers]
    assert lines == [[[1, 5], mcp], [[1], hybrid]]
    bars = panels[0].containers[0].lines[2][0].get_segments()
    assert bars[0][:, 1] == pytest.approx([mcp[0] - 2 ** 0.5, mcp[0] + 2 ** 0.5])
    assert len(panels[1].containers) == 1 and [text.get_text() for text in panels[0].figure.legends[0].get_texts()] == [
        "before", "mcp", "hybrid"]


@pytest.mark.parametrize("separator, encoding", [(";", "utf-8-sig"), ("\t", "utf-16")])
def test_a_table_that_a_spreadsheet_saved_is_read(tabulate, separator, encoding):
    expected = tabulate(SMALL)
    cells = [*csv.reader(Path("save/results.csv").read_text().splitlines())]
    Path("save/results.csv").write_text("".join(f"{separator.join(line)}\n" for line in cells), encoding=encoding)
    assert tabulate([]) == expected


# refusals

@pytest.mark.parametrize("path, message", [("none", "none does not exist"), ("none.csv", "none.csv does not exist"),
                                           ("empty", "no results.csv with a finished run in empty"),
                                           ("headless", "no results.csv with a finished run in headless")])
def test_where_there_is_no_run_there_is_no_table(refusal, path, message):
    Path("empty").mkdir()
    save(Path("headless/results.csv"))
    assert message in refusal([], path)


def test_without_a_path_save_is_read(refusal):
    assert "save does not exist" in refusal([])


@pytest.mark.parametrize("cells, message", [
    ({"acc_after": "83,5"}, "acc_after"), ({"acc_after": "nan"}, "acc_after"), ({"acc_after": 101}, "acc_after"),
    ({"acc_after": ""}, "acc_after"), ({"acc_before": ""}, "acc_before"), ({"seed": "1.5"}, "seed"), ({"seed": ""}, "seed"),
    ({"model_number": 3}, "model_number"), ({"p_budget": 0}, "p_budget"), ({"solution": ""}, "solution"),
    ({"dataset": ""}, "dataset"), ({"propagation_acc": "half"}, "propagation_acc"), ({"fixed": -1}, "fixed"),
    ({"settings": "all published"}, "all published"), ({"acc_best": -1}, "acc_best")])
def test_a_damaged_row_is_named_with_what_is_wrong(refusal, cells, message):
    error = refusal([row("mcp", 81), row("mcp", 83, 20) | cells])
    assert "save/results.csv row 2 " in error and message in error


@pytest.mark.parametrize("change", [lambda line: line[:40], lambda line: line.strip() + ",more\n"])
def test_a_row_of_too_few_or_too_many_cells_is_refused(refusal, change):
    lines = save(Path("results.csv"), row("mcp", 81), row("mcp", 83, 20)).read_text().splitlines(keepends=True)
    Path("results.csv").write_text("".join([*lines[:2], change(lines[2])]))
    assert "results.csv row 2 has not as many cells" in refusal([], "results.csv")


@pytest.mark.parametrize("content, message", [
    (b"index,label\n1,cat\n", "foreign.csv has no column dataset, model, model_number, solution, p_budget, seed, settings"),
    (b"\x89PNG\r\n\x1a\n\x00\xff", "foreign.csv is no CSV file in UTF-8")])
def test_a_file_that_is_no_results_csv_is_refused(refusal, content, message):
    Path("foreign.csv").write_bytes(content)
    assert message in refusal(SMALL, "save", "foreign.csv")


def test_a_run_with_two_results_is_refused_with_both_places(refusal):
    save(Path("b/results.csv"), row("mcp", 79), row("gini", 81) | {"acc_best": 98})
    error = refusal([row("gini", 81)], "save", "b")
    assert "save/results.csv row 1 and b/results.csv row 2 are one run, but differ in acc_best" in error


@pytest.mark.parametrize("flags, message", [
    ("--plot budget.pdf", "budget.pdf does not end in .png"),
    ("--output .", ". is a folder"), ("--output save", "save is a folder"),
    ("--output save/results.csv", "save/results.csv holds runs that tables are made of; give another file"),
    ("save/results.csv --output save/../save/results.csv", "holds runs that tables are made of"),
    ("--details --output save/results.csv", "holds runs that tables are made of"),
    ("--rows dataset --columns p_budget dataset", "dataset cannot make both rows and columns"),
    ("--metric accuracy", "--metric"), ("--columns budgets", "--columns"), ("--format html", "--format")])
def test_a_flag_that_cannot_be_followed_is_refused_and_nothing_is_written(refusal, flags, message):
    assert message in refusal(SMALL, *flags.split())
    assert [path.name for path in Path().iterdir()] == ["save"]


def test_a_column_that_is_there_twice_is_refused(tmp_path, refusal):
    save(tmp_path / "results.csv", row("gini", 81))
    text = (tmp_path / "results.csv").read_text()
    (tmp_path / "results.csv").write_text(text.replace("acc_best", "acc_after", 1))
    assert "has the column acc_after twice" in refusal([], tmp_path / "results.csv")


def test_details_are_means_of_what_each_cell_trained_on_and_took(tabulate):
    halved = f"{FINETUNING} precision=bfloat16"
    rows = [row("hybrid", 83.5, 10, halved, fixed=10, broken=4, n_propagated=50, propagation_acc=90.5, tau=0.2, n_unlabelled=1000,
                seconds_total=100), row("mcp", 81, 10, seconds_total=10),
            row("hybrid", 84.5, 20, halved, fixed=13, broken=6, n_propagated=54, propagation_acc=80.5, tau=0.3, n_unlabelled=2000,
                seconds_total=210, acc_before=81, device="cuda")]
    text = tabulate(rows, "--details")
    assert cells(text) == [
        ["mcp", "1", "80.00", "81.00", "3", "1", "8", "0", "–", "–", "0", "10", "float32", "cpu"],
        ["hybrid", "2", "80.50 ± 0.71", "84.00 ± 0.71", "12", "5", "8", "52", "85.5", "0.250", "1,500", "155", "bfloat16",
         "cpu / cuda"]]
    assert text.startswith("| solution | n | before | after | fixed | broken | annotated | propagated | right (%) | tau | unlabelled | "
                           "seconds | precision | device |\n| :-- | --: |")
    assert "T2 accuracy (%) before and after repair: mean" in text and "digits, MobileNet, A, 1 %" in text


def test_details_come_as_csv_and_name_whatever_differs(tabulate):
    rows = [row("mcp", 81), row("mcp", 82, p_budget=5), row("mcp", 83, model_number=1)]
    for line in rows:  # of earlier versions
        line.pop("seconds_load")
    lines = [*csv.DictReader(tabulate(rows, "--details", "--format", "csv").splitlines())]
    assert [(line["model_number"], line["p_budget"], line["after"], line["seconds"]) for line in lines] == [
        ("A", "1 %", "81.00", "–"), ("A", "5 %", "82.00", "–"), ("B", "1 %", "83.00", "–")]


@pytest.mark.parametrize("flags, named", [
    (["--plot", "a.png"], "--plot"),
    (["--metric", "gain", "--columns", "model"], "--columns, --metric"),
])
def test_details_refuse_the_flags_that_they_would_ignore(refusal, flags, named):
    assert refusal(SMALL, "--details", *flags).endswith(f"leave out {named}\n") and not Path("a.png").exists()
