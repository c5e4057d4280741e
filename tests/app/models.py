from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=100)
    n = models.IntegerField(default=0)

    def __str__(self) -> str:
        return self.name


class Log(models.Model):
    """What must have been written exactly once: nothing but the test itself forbids a second row."""

    key = models.TextField()

    def __str__(self) -> str:
        return self.key
