import pytest

from pml_slade.datasets.tables import image_csv
from pml_slade.exceptions import DataError


@pytest.fixture
def write(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "sub/c d.png"):
        (tmp_path / name).touch()

    def write(text, name="list.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_paths_start_from_the_folder_of_the_file(write, tmp_path):
    data = image_csv(write("path,label,split\nsub/c d.png,x,train\na.png,y,test\n"))
    assert data.labels.tolist() == [0, 1]
    assert data.classes == ["x", "y"]
    assert data.name(0) == str(tmp_path / "sub/c d.png")


def test_root_replaces_it_and_absolute_paths_stay(write, tmp_path):
    table = write(f"path\nc d.png\n{tmp_path / 'a.png'}\n")
    data = image_csv(table, labeled=False, root=tmp_path / "sub")
    assert [data.name(i) for i in (0, 1)] == [
        str(tmp_path / "sub/c d.png"),
        str(tmp_path / "a.png"),
    ]
    assert data.labels is None


@pytest.mark.parametrize("path_column", ["path", "Image", "FILE", "filename "])
@pytest.mark.parametrize("label_column", ["label", "Class"])
def test_other_column_names_are_understood(write, path_column, label_column):
    assert len(image_csv(write(f"{label_column},{path_column}\nx,a.png\ny,b.png\n"))) == 2


def test_class_names_stay_text_and_numbers_sort_as_numbers(write):
    text = "path,label\na.png,{}\nb.png,{}\n"
    assert image_csv(write(text.format("NA", "nan"))).classes == ["NA", "nan"]
    assert image_csv(write(text.format("10", "9"))).classes == ["9", "10"]
    assert image_csv(write(text.format("007", "true"))).classes == ["007", "true"]


def test_byte_order_marks_blank_lines_tabs_and_quotes_are_fine(write):
    assert len(image_csv(write("\ufeffpath,label\n\na.png,x\n\nb.png,y\n\n"))) == 2
    assert len(image_csv(write("path\tlabel\na.png\tx, y\nb.png\tz\n", "list.tsv"))) == 2
    assert image_csv(write('path,label\na.png,"x, y"\nb.png,z\n')).classes == ["x, y", "z"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as a table"),
        ("path,label\n", "lists no images"),
        ("name,label\na.png,x\n", "no column 'path'.*'name', 'label'"),
        ("path,kind\na.png,x\n", "no column 'label'"),
        ("path,label\na.png,x\n\nb.png,\n", r"1 lines have no label \(line 4\)"),
        ("path,label\na.png,x\nb.png\n", r"no label \(line 3\)"),
        ("path,label\n,x\nb.png,y\n", r"no path \(line 2\)"),
        ("path,label\na.png,x\nb.png,y\na.png,y\n", r"line 4 has the file of line 2, .*a\.png"),
        ("path,label\na.png,x\nsub/../a.png,y\n", r"1 lines .*line 3 has the file of line 2"),
        ("path,label\na.png,x\nb.png,x\n", "single class 'x'"),
        ("path,label\na.png,x,1\nb.png,y,2\n", "more fields"),
        ("path,label\na.png,x\nb.png,y,2\n", "line 3"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_with_line_numbers(write, text, message):
    with pytest.raises(DataError, match=message):
        image_csv(write(text))


def test_missing_files_are_counted_and_three_are_named(write):
    lines = "".join(f"gone{i}.png,{i}\n" for i in range(5))
    with pytest.raises(DataError, match=r"5 of 6 files.*gone0\.png \(line 3\).*gone2") as caught:
        image_csv(write("path,label\na.png,x\n" + lines))
    assert "gone3" not in str(caught.value)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read as a table"):
        image_csv(tmp_path / "nowhere.csv")


def test_a_file_under_the_name_of_a_link_is_the_same_file(write, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    with pytest.raises(DataError, match="line 3 has the file of line 2"):
        image_csv(write("path,label\nsub/c d.png,x\nlink/c d.png,y\n"))


def test_names_that_are_no_utf8_come_back_from_a_list_that_escapes_them(write, tmp_path):
    name = "caf\udce9.png"
    (tmp_path / name).touch()
    data = image_csv(write("path,label\ncaf\\udce9.png,x\na.png,y\n"))
    assert data.name(0) == str(tmp_path / name)
