"""User code: health."""

from django.http import HttpRequest, JsonResponse

from django_dbpool import health


def liveness(request: HttpRequest) -> JsonResponse:
    return JsonResponse(health.live().to_json())


def readiness(request: HttpRequest) -> JsonResponse:
    found: health.Ready = health.ready()
    reasons: list[str] = [f"{each.alias}: {each.text}" for each in found.databases if not each.ok]
    return JsonResponse({"status": found.status, "reasons": reasons}, status=200 if found.ok else 503)


async def readiness_of_asgi(request: HttpRequest) -> JsonResponse:
    found = await health.aready(fresh=True)
    return JsonResponse(found.to_json(), status=200 if found.ok else 503)


def numbers(alias: str) -> tuple[bool, float, str]:
    now: health.Saturation = health.saturation(alias)
    server: health.Connectivity = health.connectivity(alias, timeout=0.5)
    circuit: health.Circuit = health.circuit(alias)
    return server.ok and not now.is_exhausted, now.utilization_percent, circuit.state
