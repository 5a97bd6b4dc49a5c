"""Frames survive any cutting of the stream and any rubbish between them."""

from hypothesis import given
from hypothesis import strategies as st

from vmm import frames

FRAMES = st.lists(
    st.tuples(st.integers(1, 255), st.integers(0, 2**32 - 1), st.binary(max_size=300)), min_size=1, max_size=5
)


@given(FRAMES, st.integers(1, 64))
def test_frames_arrive_as_sent_however_the_stream_is_cut(
    sent: list[tuple[int, int, bytes]], step: int
) -> None:
    stream = b"".join(frames.encode(*frame) for frame in sent)
    decoder = frames.Decoder()
    got = [frame for at in range(0, len(stream), step) for frame in decoder.feed(stream[at : at + step])]
    assert got == sent
    assert decoder.skipped_bytes == 0


@given(FRAMES, st.binary(max_size=100).filter(lambda rubbish: b"v" not in rubbish))
def test_rubbish_before_a_frame_is_skipped(sent: list[tuple[int, int, bytes]], rubbish: bytes) -> None:
    decoder = frames.Decoder()
    assert decoder.feed(b"".join(rubbish + frames.encode(*frame) for frame in sent)) == sent
    assert decoder.skipped_bytes == len(rubbish) * len(sent)


def test_a_magic_with_a_wrong_check_is_no_frame() -> None:
    right = frames.encode(frames.STDOUT, 7, b"text")
    wrong = right[:6] + bytes([right[6] ^ 1]) + right[7:]
    assert frames.Decoder().feed(wrong + right) == [(frames.STDOUT, 7, b"text")]


def test_half_of_a_request_has_another_sum() -> None:
    whole = frames.exec_payload(("rm", "-r", "/tmp/one"), (), "/", "", 0)
    assert frames.fnv1a(whole[4:]) == int.from_bytes(whole[:4], "little")
    assert frames.fnv1a(whole[4:-3]) != int.from_bytes(whole[:4], "little")
