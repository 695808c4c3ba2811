"""The journal: the current or last transaction, one small file that is always old or new, never a mix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from k8r_agent.errors import StateError
from k8r_agent.model.txn import Transaction, TxnState
from k8r_agent.ports.statefiles import StateFiles
from k8r_agent.store import jsonfile

if TYPE_CHECKING:
    from k8r_agent.model.task import Task

FORMAT = 1
NAME = "transaction.json"
CANCEL = "cancel"  # holds the id of the transaction that somebody wants ended: the journal has one writer only
_FIELDS = frozenset(Transaction.__dataclass_fields__)


class Journal:
    """Keeps the fields of a newer release that it does not know, as long as the transaction is the same."""

    def __init__(self, files: StateFiles) -> None:
        self._files = files
        self._unknown: dict[str, Any] = {}

    def load(self, *, quarantine: bool = True) -> Transaction | None:
        """Raises StateError; a damaged journal is set aside unless `quarantine` is off (for readers)."""
        record = jsonfile.load(self._files, NAME, format_now=FORMAT, quarantine=quarantine)
        if record is None:
            return None
        try:
            txn = _transaction(record)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if record["format"] > FORMAT:
                raise StateError(f"{NAME} cannot be understood", why=f"a newer release wrote it: {error}",
                                 hint="continue with the release that wrote it") from None
            raise jsonfile.damaged(self._files, NAME, jsonfile.encode(record), error, quarantine=quarantine) from None
        self._unknown = {"id": txn.id, **{k: v for k, v in record.items() if k not in _FIELDS and k != "format"}}
        return txn

    def save(self, txn: Transaction) -> Transaction:
        """Durable on return."""
        if self._unknown.get("id") != txn.id:
            self._unknown = {}
        self._files.write(NAME, jsonfile.encode({**self._unknown, **record_of(txn)}))
        return txn

    def ask_cancel(self, txn: str) -> None:
        """Leave a note for the engine, which alone writes the journal."""
        self._files.write(CANCEL, txn.encode())

    def cancel_asked(self, txn: str) -> bool:
        return self._files.read(CANCEL) == txn.encode()

    def drop_cancel(self) -> None:
        if self._files.read(CANCEL) is not None:
            self._files.remove(CANCEL)


def record_of(txn: Transaction) -> dict[str, Any]:
    """As stored, and as `--json` shows it."""
    return {"format": FORMAT, "id": txn.id, "task": txn.task, "steps": list(txn.steps), "args": dict(txn.args),
            "tries": dict(txn.tries), "facts": dict(txn.facts), "state": str(txn.state), "note": txn.note,
            "cancel": txn.cancel, "agent": txn.agent, "started": txn.started, "ended": txn.ended,
            **({"definition": _definition_record(txn.definition)} if txn.definition else {})}


def _definition_record(task: Task) -> dict[str, Any]:
    """Without what the transaction has itself: name and steps."""
    return {"summary": task.summary, "on_failure": list(task.on_failure),
            "point_of_no_return": task.point_of_no_return,
            "rules": {step: {"timeout": rule.timeout, "max_tries": rule.max_tries, "holds_until": rule.holds_until}
                      for step, rule in task.rules.items()}}


def _definition(record: Mapping[str, Any], found: Any) -> Task | None:
    if found is None:
        return None
    from k8r_agent.model.task import StepRule, Task

    rules = {_text(step): StepRule(timeout=float(rule["timeout"]), max_tries=int(rule["max_tries"]),
                                   holds_until=_text(rule["holds_until"]))
             for step, rule in found["rules"].items()}
    return Task(name=_text(record["task"]), summary=_text(found["summary"]), rules=rules,
                steps=tuple(_text(s) for s in record["steps"]), on_failure=tuple(map(_text, found["on_failure"])),
                point_of_no_return=_text(found["point_of_no_return"]))


def _transaction(record: Mapping[str, Any]) -> Transaction:
    return Transaction(
        id=_text(record["id"]), task=_text(record["task"]), steps=tuple(_text(s) for s in record["steps"]),
        args=_texts(record.get("args", {})), facts=_texts(record.get("facts", {})),
        tries={_text(k): int(v) for k, v in record.get("tries", {}).items()},
        state=TxnState(record["state"]), note=_text(record.get("note", "")), cancel=record.get("cancel") is True,
        agent=_text(record.get("agent", "")), started=float(record.get("started", 0)),
        ended=float(record.get("ended", 0)), definition=_definition(record, record.get("definition")))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _texts(value: Mapping[object, object]) -> dict[str, str]:
    return {_text(k): _text(v) for k, v in dict(value).items()}
