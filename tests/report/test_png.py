"""PNG files are decoded by hand, by the words of the standard, and by nobody's library."""

import struct
import zlib

import numpy as np

from birdjepa.report.png import HIDDEN, N_COLOURS, colour_map, data_uri, encode_png


def decode(data: bytes) -> np.ndarray:
    """(h, w, 3) of an indexed 8-bit PNG whose lines have no filter."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        (checksum,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert checksum == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + size
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour, rest) == (8, 3, [0, 0, 0])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(height, width + 1)
    assert not lines[:, 0].any()
    return np.frombuffer(chunks[b"PLTE"], dtype=np.uint8).reshape(-1, 3)[lines[:, 1:]]


def test_pixels_are_the_colours_of_their_values():
    values = np.array([[-5.0, 0.0, 0.5], [1.0, 1.0, 9.0]])
    pixels = decode(encode_png(values, 0.0, 1.0))
    colours = colour_map()
    middle = colours[round(0.5 * (N_COLOURS - 1))]
    np.testing.assert_array_equal(pixels, [[colours[0], colours[0], middle], [colours[-1], colours[-1], colours[-1]]])


def test_the_map_gets_lighter_all_the_way():
    luminance = colour_map() @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > 0).all()


def test_a_flat_picture_is_dark_and_equal_values_are_equal_bytes():
    flat = np.full((2, 3), -80.0)
    assert (decode(encode_png(flat, -80.0, -80.0)) == colour_map()[0]).all()
    assert encode_png(flat, -80.0, -80.0) == encode_png(flat.copy(), -80.0, -80.0)


def test_nothing_is_there_in_a_grey_that_is_no_shade():
    values = np.array([[np.nan, -5.0], [9.0, np.nan]])
    pixels = decode(encode_png(values, 0.0, 1.0))
    np.testing.assert_array_equal(pixels[[0, 1], [0, 1]], [HIDDEN, HIDDEN])
    np.testing.assert_array_equal(pixels[[0, 1], [1, 0]], colour_map()[[0, -1]])
    assert np.abs(colour_map().astype(int) - HIDDEN).sum(1).min() > 60


def test_data_uri_holds_the_bytes():
    assert data_uri(b"abc", "image/png") == "data:image/png;base64,YWJj"
