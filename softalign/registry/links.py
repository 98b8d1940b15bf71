"""Where a registered version can be looked at in a browser: its run and its report on MLflow's pages, and who made it.

Only a server has pages; for a registry in a file the addresses are empty.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from softalign.artifacts import Frozen, ModelVersion
from softalign.credentials import without_credentials
from softalign.registry.connection import HTTP, consumer_uri, registry_client, require_database
from softalign.registry.versions import versions_of

ORCHESTRATOR_TAG = "softalign.orchestrator_run_url"
"""Of the run and of the version: the page of the flow run or job that registered it."""
REPORT_PATH = "report/report.html"
"""Within the run's files."""


class VersionLinks(Frozen):
    """The pages of one registered version; empty where there is none.

    Attributes:
        run_url: MLflow's page of its run.
        report_url: its report, which a browser downloads: MLflow lets no page of a run's files stand on its own site.
        orchestrator_run_url: the flow run or job that registered it.
    """

    version: int
    run_url: str = ""
    report_url: str = ""
    orchestrator_run_url: str = ""

    def to_lines(self) -> list[str]:
        """Return the pages for people, a line each."""
        named = (("run", self.run_url), ("report", self.report_url), ("made by", self.orchestrator_run_url))
        return [f"  {name:<8} {url}" for name, url in named if url]


def run_url(version: ModelVersion) -> str:
    """Return the page of a version's run; empty where its registry is no server."""
    return page_of_run(version.tracking_uri, version.run_id)


def report_url(version: ModelVersion) -> str:
    """Return the address of a version's report at its registry; empty where that is no server."""
    return _report_url(version.tracking_uri, version.run_id)


def version_links(name: str, tracking_uri: str | None = None) -> tuple[VersionLinks, ...]:
    """Return the pages of all versions of a model, in order.

    Raises:
        RegistryError: the registry refused.
        MissingInputError: there is no registry at this place.
    """
    uri = consumer_uri(tracking_uri)
    require_database(uri)
    public = without_credentials(uri)
    with registry_client(uri) as client:
        return tuple(_links_of(version, public) for version in versions_of(client, name))


def _links_of(version: Any, uri: str) -> VersionLinks:
    return VersionLinks(
        version=int(version.version),
        run_url=page_of_run(uri, version.run_id or ""),
        report_url=_report_url(uri, version.run_id or ""),
        orchestrator_run_url=version.tags.get(ORCHESTRATOR_TAG, ""),
    )


def page_of_run(uri: str, run_id: str) -> str:
    """Return the page of a run at a registry; empty where that is no server, or there is no run."""
    return f"{uri.rstrip('/')}/#/runs/{quote(run_id)}" if uri.startswith(HTTP) and run_id else ""


def _report_url(uri: str, run_id: str) -> str:
    if not uri.startswith(HTTP) or not run_id:
        return ""
    return f"{uri.rstrip('/')}/get-artifact?path={quote(REPORT_PATH, safe='')}&run_uuid={quote(run_id)}"
