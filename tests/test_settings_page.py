"""docs/settings.md tells of every setting, as the settings are."""

import msgspec

from antiphon.config import Section
from tests import settings_page


def test_the_page_is_as_make_docs_writes_it() -> None:
    assert settings_page.PAGE.read_text() == settings_page.page()


def test_it_tells_of_every_setting() -> None:
    page = settings_page.PAGE.read_text()
    names = {field.name for table in _all(Section) for field in msgspec.structs.fields(table)}

    assert len(names) > 100
    assert [name for name in names if not any(told in page for told in (f"`{name}`", f".{name}]", f"[{name}]"))] == []


def _all(kind: type[Section]) -> list[type[Section]]:
    return [table for one in kind.__subclasses__() for table in (one, *_all(one))]
