"""Used secrets are taken out of a k8r.toml; everything else stays as somebody wrote it, byte for byte."""

from __future__ import annotations

import pytest

from k8r_agent.config.blank import blanked, secrets

TOKEN, KEY = b"abcdef.0123456789abcdef", b"0" * 64


@pytest.mark.parametrize("line", [
    b'join_token = "abcdef.0123456789abcdef"', b"join_token='abcdef.0123456789abcdef' # for a day",
    b'  "join_token" = "abcdef.0123456789abcdef"\r', b'join_token="abcdef.0123456789abcdef"'])
def test_a_token_is_blanked_however_it_is_written(line: bytes) -> None:
    before = b'# mine\r\n[node]\nhostname = "a"\n\n[kubernetes]\nendpoint = "h:6443"\n' + line + b"\ncni = 'none'\n"
    assert secrets(before) == ("kubernetes.join_token",)
    after = blanked(before)
    assert TOKEN not in after and secrets(after) == ()
    start = before.index(line)
    assert after.startswith(before[:start]) and after.endswith(b"\ncni = 'none'\n")


def test_a_dotted_key_and_a_certificate_key() -> None:
    before = b'kubernetes.join_token = "' + TOKEN + b'"\nkubernetes.certificate_key = "' + KEY + b'"\n'
    after = blanked(before)
    assert secrets(after) == () and TOKEN not in after and KEY not in after


def test_nothing_is_touched_where_there_is_no_secret() -> None:
    text = b'\xef\xbb\xbf[kubernetes]\njoin_token = ""\n# join_token = "abcdef.0123456789abcdef"\ninitialise = true\n'
    assert blanked(text) == text and secrets(text) == ()


def test_what_is_not_understood_is_noticed() -> None:
    text = b'[kubernetes]\njoin_token = """abcdef.0123456789abcdef"""\n'
    assert secrets(blanked(text)) == ("kubernetes.join_token",)
