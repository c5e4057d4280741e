from django.apps import AppConfig


class AudioConfig(AppConfig):
    name = "testproject.audio"
    verbose_name = "Audio"
    default_auto_field = "django.db.models.BigAutoField"
