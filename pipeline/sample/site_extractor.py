"""What yt-dlp needs to know of the sample's video site (`pipeline.sample.site`).

It stands outside `pipeline.sample`, so that fetching loads nothing of what draws and speaks the sample.
"""

from typing import Any

from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.utils import ExtractorError, GeoRestrictedError


class SampleSiteIE(InfoExtractor):
    """Pages `http://127.0.0.1:PORT/watch?v=ID`; a dead id raises the error that YouTube's own extractor would."""

    IE_NAME = "mcn:sample"
    _VALID_URL = r"(?P<site>http://127\.0\.0\.1:\d+)/watch\?v=(?P<id>[A-Za-z0-9_-]{11})$"

    def _real_extract(self, url: str) -> dict[str, Any]:
        site, video_id = self._match_valid_url(url).group("site", "id")
        about = self._download_json(f"{site}/api/{video_id}", video_id)
        if message := about.get("message"):
            kind = GeoRestrictedError if about["class"] == "geo" else ExtractorError
            raise kind(message, expected=True)
        return {
            "id": video_id,
            "title": video_id,
            "duration": about["duration"],
            "formats": [
                {
                    "format_id": "18",
                    "url": f"{site}/media/{video_id}.mp4",
                    "ext": "mp4",
                    "vcodec": "avc1",
                    "acodec": "mp4a.40.2",
                    "width": about["width"],
                    "height": about["height"],
                    "filesize": about["filesize"],
                }
            ],
        }
