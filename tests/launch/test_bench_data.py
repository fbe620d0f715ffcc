"""`skald bench data`: our rows beside Grain's, in processes of their own."""

import json

import numpy as np
import pytest


def bench(skald, *arguments):
    status, out, err = skald("bench", "data", "--runs", "1", "--batch", "4", "--length", "256", *arguments)
    assert status == 0, err
    return json.loads(out)


@pytest.mark.slow(35)
def test_rows_are_counted_and_compared_with_a_peers(skald):
    pytest.importorskip("grain")
    result = bench(skald, "--against", "grain", "--json")
    assert result["tokens_per_second"] > 0 and result["limit_tokens_per_second"] > result["tokens_per_second"]
    assert 0 <= result["data_wait"] < 0.5
    assert result["against"]["name"].startswith("Grain") and result["against"]["tokens_per_second"] > 0
    assert result["ratio"] == pytest.approx(result["tokens_per_second"] / result["against"]["tokens_per_second"], 0.01)


def test_a_peer_reads_the_very_rows(tmp_path):
    """Grain's five arrays are ours, bit for bit."""
    grain = pytest.importorskip("grain.python")
    from configs import shakespeare
    from launch.bench import feeding, grain_peer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKALD_CACHE", str(tmp_path))
        rows = feeding.packed_rows(shakespeare.default(), 4, 64, 10)
    file = grain_peer.write_rows(rows, tmp_path)
    source = grain.ArrayRecordDataSource([str(file)])
    read = [grain_peer.parse(source[i], 64) for i in range(len(source))]
    for name, expected in rows._asdict().items():
        found = np.stack([arrays[name] for arrays in read])
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_a_peer_of_another_bench_is_refused(skald):
    status, _, err = skald("bench", "data", "--against", "hf")
    assert (status, err) == (2, "skald: --against hf: the peer of data is grain\n")
