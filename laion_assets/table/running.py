"""Statements that this process has under way in embedded engines, and their end. A server's are ended by `database.py`,
where its answer is waited for: there a signal is heard."""

from __future__ import annotations

from pathlib import Path

from laion_assets.table.embedded import embedded_client, engines_in_use


class RunningStatements:
    """What runs when it is first told to end; what the interrupted step then does to tidy up is not ended."""

    def __init__(self) -> None:
        self._ids: dict[Path, list[str]] = {}

    def end(self) -> None:
        """Ends them; may be called again. From any thread, while another waits for them.

        KILL QUERY alone ended a scan in 0.1 s and an insert in 1.2 to 1.7 s, and let OPTIMIZE run to its end: merges
        are stopped by themselves. They stay so until the engine is closed, which the interrupted step does.
        """
        with engines_in_use() as engines:
            for folder, settings in engines.items():
                client = embedded_client(folder, settings)
                try:
                    if folder not in self._ids:
                        rows = client.query("SELECT query_id FROM system.processes WHERE query_id != queryID()")
                        self._ids[folder] = [str(query_id) for (query_id,) in rows.result_rows]
                    client.command("SYSTEM STOP MERGES")
                    client.query(
                        "KILL QUERY WHERE has({ids:Array(String)}, query_id) ASYNC",
                        parameters={"ids": self._ids[folder]},
                    )
                finally:
                    client.close()
