"""Download and extraction on a Dask cluster of two workers, one of which is killed, give what one machine gives."""

from pathlib import Path

import distributed

from pipeline.download.media import find_media

from .conftest import Work, contents, ended, holder


def test_a_dask_cluster_that_loses_a_worker_loses_nothing(work: Work, tmp_path: Path) -> None:
    with distributed.LocalCluster(
        2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", local_directory=str(tmp_path / "dask")
    ) as cluster:
        flags = ["--runner=DaskRunner", f"--dask_client_address={cluster.scheduler_address}", "--dask_npartitions=4"]

        media = tmp_path / "media"
        assert ended(work.download(media, *flags)) == (0, [])
        there, here = find_media(media).paths, find_media(work.media).paths
        assert {name: path.read_bytes() for name, path in there.items()} == {
            name: path.read_bytes() for name, path in here.items()
        }

        out = tmp_path / "dataset"
        process = work.extract(out, *flags)
        holder(out, process).kill()
        assert ended(process) == (0, [])
    assert contents(out) == contents(work.dataset)
    assert not list((out / "leases").glob("*.json"))
