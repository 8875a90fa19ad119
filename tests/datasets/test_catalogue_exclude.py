"""Which classes count as the same, and that none of their images is left."""

import pytest

from pml_slade.datasets import CATALOGUE, CUB200, Cars196, CompCars, NABirds
from pml_slade.datasets.catalogue.base import words
from pml_slade.exceptions import DataError


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("009.Brewer_Blackbird", "Brewer's Blackbird (Female/Juvenile)"),
        ("010.Red_winged_Blackbird", "Red-winged Blackbird (Male)"),
        ("022.Chuck_will_Widow", "Chuck-will's-widow"),
        ("016.Painted_Bunting", " painted  BUNTING (Adult Male)"),
        ("Le Conte’s Sparrow", "Le_Conte_Sparrow"),
    ],
)
def test_names_of_the_same_bird_are_the_same_words(name, same):
    assert words(name) == words(same)


@pytest.mark.parametrize(
    ("name", "other"),
    [("Northern Cardinal", "017.Cardinal"), ("Blackbird", "Red-winged Blackbird"), ("100 Sedan", "Sedan")],
)
def test_names_of_others_are_not(name, other):
    assert words(name) != words(other)


@pytest.mark.parametrize(
    ("model", "car", "same"),
    [
        ("Audi/Audi A5 coupe", "Audi A5 Coupe 2012", True),
        ("Audi/A5", "Audi A5 Coupe 2012", True),
        ("BWM/BWM X5", "BMW X5 SUV 2007", True),
        ("Buck/Enclave", "Buick Enclave SUV 2012", True),
        ("Benz/Benz C Class", "Mercedes-Benz C-Class Sedan 2012", True),
        ("VW/Beetle", "Volkswagen Beetle Hatchback 2012", True),
        ("Lamorghini/Aventador", "Lamborghini Aventador Coupe 2012", True),
        ("LAND-ROVER/Range Rover", "Land Rover Range Rover SUV 2012", True),
        ("Acura/Acura RL abroad version", "Acura RL Sedan 2012", True),
        ("smart/smart fortwo", "smart fortwo Convertible 2012", True),
        ("Audi/Audi A5 hatchback", "Audi A5 Coupe 2012", False),
        ("Audi/Audi A", "Audi A5 Coupe 2012", False),
        ("Audi/Audi coupe", "Audi A5 Coupe 2012", False),
        ("Volvo/Volvo 240", "Volvo 240 Sedan 1993", True),
        ("Chrysler/Chrysler 2010", "Chrysler Sebring Convertible 2010", False),
        ("Chrysler/Sebring Convertible 2010", "Chrysler Sebring Convertible 2010", False),
    ],
)
def test_models_are_the_same_where_their_words_stand_in_the_other_name(model, car, same):
    assert CompCars.same_classes([model], ["AM General Hummer SUV 2000", car]) == [same]


@pytest.mark.parametrize(
    ("pool", "labeled", "left_out"),
    [
        (
            "NABirds",
            "CUB200",
            [
                "Brewer's Blackbird (Male)",
                "Brewer's Blackbird (Female/Juvenile)",
                "Red-winged Blackbird (Male)",
            ],
        ),
        ("CompCars", "Cars196", ["Audi/Audi A5 coupe", "BWM/BWM X5", "Benz/Benz C Class"]),
    ],
)
def test_no_image_of_an_excluded_class_is_left(root, caplog, pool, labeled, left_out):
    test = CATALOGUE[labeled](root, "test", complete=False)
    whole = CATALOGUE[pool](root, complete=False)
    with caplog.at_level("INFO", logger="pml_slade"):
        rest = CATALOGUE[pool](root, complete=False, exclude=test.classes)
    assert rest.classes == [name for name in whole.classes if name not in left_out]
    assert sorted(set(rest.labels)) == list(range(5))
    kept = {whole.name(i) for i in range(len(whole)) if whole.classes[whole.labels[i]] not in left_out}
    assert {rest.name(i) for i in range(len(rest))} == kept
    assert (
        f"{pool}: left out 3 classes with 12 images that are in exclude; 5 classes with 20 images remain"
        in caplog.text
    )


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_class_is_left_out_by_its_own_name(root, name):
    whole = CATALOGUE[name](root, complete=False)
    gone = whole.classes[3] if name != "CompCars" else "BMW X5 SUV 2007"
    rest = CATALOGUE[name](root, complete=False, exclude=[gone])
    same = CATALOGUE[name].same_classes(whole.classes, [gone])
    assert rest.classes == [c for c, out in zip(whole.classes, same) if not out]
    assert whole.classes[3] not in rest.classes


def test_the_split_is_made_before_classes_are_left_out(root):
    whole = CUB200(root, "test", complete=False)
    rest = CUB200(root, "test", complete=False, exclude=[whole.classes[0]])
    assert rest.classes == whole.classes[1:]


@pytest.mark.parametrize("exclude", [[], ["Nothing of the kind"], iter(["Nothing of the kind"])])
def test_names_that_are_not_there_change_nothing(root, exclude):
    assert len(NABirds(root, complete=False, exclude=exclude)) == 32


def test_nothing_left_is_refused(root):
    names = Cars196(root, complete=False).classes
    with pytest.raises(DataError, match="exclude leaves no images: all 10 classes are in it"):
        Cars196(root, complete=False, exclude=names)


def test_cars_are_left_out_either_way_round():
    """Names of Cars-196 may have a slash, too."""
    ours = ["Audi A5 Coupe 2012", "Ram C/V Cargo Van Minivan 2012", "BMW X5 SUV 2007"]
    theirs = ["BWM/BWM X5", "Fiat/Fiat 500"]
    assert Cars196.same_classes(ours, theirs) == [False, False, True]
    assert Cars196.same_classes(ours, ours[1:]) == [False, True, True]
