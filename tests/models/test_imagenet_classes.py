from resnet_infer.models.imagenet_classes import imagenet_classes


def test_a_thousand_classes_that_can_be_told_apart() -> None:
    names, wordnet_ids = imagenet_classes()
    assert len(names) == len(wordnet_ids) == 1000
    assert len({name.casefold() for name in names}) == 1000
    assert all(name == name.strip() and name.isascii() for name in names)


def test_wordnet_ids_ascend_as_class_folders_sort() -> None:
    _, wordnet_ids = imagenet_classes()
    assert all(len(i) == 9 and i[0] == "n" and i[1:].isdecimal() for i in wordnet_ids)
    assert list(wordnet_ids) == sorted(set(wordnet_ids))


def test_names_stand_at_their_index() -> None:
    names, wordnet_ids = imagenet_classes()
    table = dict(zip(wordnet_ids, names, strict=True))
    assert (names[0], names[207], names[281], names[999]) == ("tench", "golden retriever", "tabby", "toilet tissue")
    assert (table["n02012849"], table["n03126707"]) == ("crane (bird)", "crane (machine)")
    assert (table["n02113186"], table["n02963159"]) == ("Cardigan Welsh corgi", "cardigan")
    assert (table["n03710637"], table["n03710721"]) == ("maillot", "maillot, tank suit")
