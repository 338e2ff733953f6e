"""results/README.md has the tables that the rows beside it make."""
from conftest import ROOT, results_script


def test_the_tables_of_the_results_are_those_that_their_commands_print():
    text = (ROOT / "results/README.md").read_text(encoding="utf-8")
    script = results_script("readme")
    assert script.TABLE.search(text)
    assert script.renewed(text) == text


def test_a_table_that_is_out_of_date_is_replaced_and_all_else_stays(monkeypatch):
    script = results_script("readme")
    monkeypatch.setattr(script, "printed", lambda words: f"{words[-1]} printed this\n")
    text = "a\n<!-- python tables.py 'x y' -->\n{}<!-- end -->\nb\n<!-- python tables.py z -->\n{}<!-- end -->\n"
    assert script.renewed(text.format("old\n", "")) == text.format("x y printed this\n", "z printed this\n")
