"""
Scrapy with its ImagesPipeline, for a list.

    python scrapy_images.py LIST FOLDER CONCURRENT
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import scrapy
from scrapy.crawler import CrawlerProcess

LIST, FOLDER, CONCURRENT = sys.argv[1], sys.argv[2], int(sys.argv[3])


class Images(scrapy.Spider):
    """An item for each line; the pipeline does the rest."""

    name = "images"

    async def start(self) -> AsyncIterator[Any]:
        """Begin with a page that needs no server."""
        yield scrapy.Request("data:,", dont_filter=True)

    def parse(self, response: Any) -> Iterator[dict[str, list[str]]]:
        """Yield the items."""
        with open(LIST, encoding="utf-8") as lines:
            for line in lines:
                yield {"image_urls": [line.strip()]}


process = CrawlerProcess(
    {
        "ITEM_PIPELINES": {"scrapy.pipelines.images.ImagesPipeline": 1},
        "IMAGES_STORE": FOLDER,
        "CONCURRENT_REQUESTS": CONCURRENT,
        "CONCURRENT_REQUESTS_PER_DOMAIN": CONCURRENT,
        "CONCURRENT_ITEMS": 2 * CONCURRENT,
        "DOWNLOAD_DELAY": 0,
        "DOWNLOAD_TIMEOUT": 10,
        "RETRY_ENABLED": False,
        "ROBOTSTXT_OBEY": False,
        "LOG_LEVEL": "CRITICAL",
        "TELNETCONSOLE_ENABLED": False,
    }
)
process.crawl(Images)
process.start()
