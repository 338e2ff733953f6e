"""provenance.py: the commit is that of the checkout, marked where files have changed, and versions are those that are installed."""
import subprocess
from importlib.metadata import version

import pytest

from hybridrepair.base import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository of one commit in the place of this project; its id."""
    def git(*words: str) -> str:
        words = ("git", "-c", "user.name=a", "-c", "user.email=a@b", *words)
        return subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    provenance.project.cache_clear()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "hybridrepair"\nversion = "9.8.7"\n')
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    yield git("rev-parse", "HEAD")
    provenance.project.cache_clear()


def test_the_project_is_told_by_version_and_commit_with_a_mark_where_files_have_changed(checkout, tmp_path):
    assert len(checkout) == 40 and provenance.project() == f"hybridrepair 9.8.7 commit {checkout}"
    provenance.project.cache_clear()
    (tmp_path / "pyproject.toml").write_text('version = "9.8.8"\n')
    assert provenance.project() == f"hybridrepair 9.8.8 commit {checkout}+"


def test_an_installed_package_has_a_version_and_no_commit_though_it_lies_in_a_repository(checkout, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "site-packages")
    monkeypatch.setattr(provenance, "version", lambda name: {"hybridrepair": "1.2.3"}[name])
    assert provenance.project() == "hybridrepair 1.2.3"


def test_without_git_the_version_is_told(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.project() == "hybridrepair 9.8.7"


def test_versions_are_those_of_the_packages_that_numbers_depend_on():
    told = provenance.versions()
    assert told.startswith("python 3.") and all(f"{name} {version(name)}" in told for name in ("torch", "torchvision", "numpy",
                                                                                               "scikit-learn"))


def test_peak_memory_is_in_bytes():
    assert 5e7 < provenance.peak_memory() < 1e11  # torch alone takes more than 50 MB


def test_the_processor_has_a_name():
    assert provenance.processor().strip()
