import pytest

from detclip2.finetuning.names import FileNames, Merge, reconcile


def files(*lists, synonyms=()):
    given = dict(synonyms)
    return [
        FileNames(f"{letter}.json", names, [given.get(name, ()) for name in names])
        for letter, names in zip("abcd", lists, strict=False)
    ]


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("wine glass", "Wine_Glass", "spelling"),
        ("dining table", "diningtable", "spelling"),
        ("t-shirt", "T shirt", "spelling"),
        ("dog", "dogs", "plural"),
        ("sports balls", "Sports Ball", "plural"),
        ("people", "person", "plural"),
        ("knife", "knives", "plural"),
        ("sofa", "couch", "synonym"),
        ("tv", "television set", "synonym"),
        ("cell phone", "mobile phone", "synonym"),
        ("aeroplane", "airplanes", "synonym"),
        ("красная клетка", "Красная_клетка", "spelling"),
    ],
)
def test_one_meaning_is_one_name(first, second, reason):
    used, merges = reconcile(files([first, "cow"], ["zebra", second]))
    assert used == [[first, "cow"], ["zebra", first]]
    assert merges == [Merge(first, second, "b.json", reason)]


def test_equal_names_need_no_merge():
    used, merges = reconcile(files(["dog", "cat"], ["Cat", "DOG"]))
    assert used == [["dog", "cat"], ["cat", "dog"]]
    assert merges == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("glass", "glasses"),  # LVIS: a drink container, and spectacles
        ("fish", "shark"),
        ("motorcycle", "bicycle"),
        ("mouse (animal)", "computer mouse"),
        ("🐶", "🐕"),
        ("class", "clas"),
    ],
)
def test_different_things_stay_apart(first, second):
    used, merges = reconcile(files([first], [second]))
    assert used == [[first], [second]]
    assert merges == []


def test_what_one_file_distinguishes_stays_distinct():
    """Both are synonyms of "person" in LVIS, so that neither can be it."""
    used, merges = reconcile(files(["person"], ["man", "woman"], ["mug", "cup"], ["cup", "mug"]))
    assert used == [["person"], ["man", "woman"], ["mug", "cup"], ["cup", "mug"]]
    assert merges == []


def test_the_closest_match_has_priority():
    used, merges = reconcile(files(["dogs", "couch"], ["dog", "dogs", "sofa", "Couch"]))
    assert used == [["dogs", "couch"], ["dog", "dogs", "sofa", "couch"]]
    assert merges == []


def test_every_spelling_of_a_name_leads_to_it():
    used, merges = reconcile(files(["airplane"], ["aeroplanes"], ["Aero Planes"]))
    assert used == [["airplane"]] * 3
    assert [merge.reason for merge in merges] == ["synonym", "spelling"]


@pytest.mark.parametrize("own", ["RBC", "red blood cell"])
def test_files_may_give_synonyms(own):
    lists = (["RBC"], ["Red Blood Cell"])
    given = {"RBC": ("red_blood_cell",)} if own == "RBC" else {"Red Blood Cell": ("rbc", "cell")}
    assert reconcile(files(*lists))[1] == []
    used, merges = reconcile(files(*lists, synonyms=given.items()))
    assert used == [["RBC"], ["RBC"]]
    assert [merge.reason for merge in merges] == ["synonym"]


def test_distinct_names_match_themselves_only():
    lists = (["dog", "couch"], ["dogs", "sofa"], ["Dogs", "sofas"])
    used, merges = reconcile(files(*lists), distinct=["DOGS", "couch"])
    assert used == [["dog", "couch"], ["dogs", "sofa"], ["dogs", "sofa"]]
    assert [merge.other for merge in merges] == ["sofas"]
