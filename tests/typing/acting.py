"""User code: acting."""

from typing import TYPE_CHECKING

from asgiref.sync import sync_to_async
from django.http import HttpRequest, JsonResponse

from django_dbpool.acting import ACTIONS, OUTCOMES, Acted, act
from django_dbpool.acting.idle import IdleSession, end, idle_in_transaction
from django_dbpool.fleet import processes


def cancel(request: HttpRequest, instance: str, alias: str, pid: int, generation: int) -> JsonResponse:
    def note() -> None:
        print("noted")

    acted: Acted = act(
        instance,
        "cancel",
        actor=request.user.get_username(),
        note=note,
        timeout=4,
        alias=alias,
        backend_pid=pid,
        generation=generation,
    )
    assert acted.outcome in OUTCOMES
    return JsonResponse(acted.to_json(), status=200 if acted.done else 409)


async def drain_all() -> list[str]:
    found = await sync_to_async(processes)()
    told = [await sync_to_async(act)(each.identity.instance, "drain", actor="deploy") for each in found]
    return [f"{acted.text} {acted.way} {acted.seconds:.1f}" for acted in told]


def end_those_of(application: str) -> list[Acted]:
    idle: tuple[IdleSession, ...] = idle_in_transaction("default", 300, processes())
    return [end(session, actor="cron") for session in idle if session.application_name == application]


verbs: list[str] = sorted(ACTIONS)

if TYPE_CHECKING:

    def refused() -> None:
        act("f" * 16, "drain")  # type: ignore[call-arg]
        act("f" * 16, "drain", "me")  # type: ignore[call-arg]
        act("f" * 16, "drain", actor="me", note="noted")  # type: ignore[arg-type]
        act("f" * 16, "drain", actor="me").outcome = "done"  # type: ignore[misc]
        end(88121, actor="me")  # type: ignore[arg-type]
