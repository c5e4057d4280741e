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


class Coded(models.Model):
    """By a key that has no order to be seen from outside."""

    code = models.UUIDField(primary_key=True)
    n = models.IntegerField(default=0)


class Word(models.Model):
    text = models.CharField(max_length=100, primary_key=True)
    n = models.IntegerField(default=0)


class Host(models.Model):
    """By a text for Python, that the server puts in another order than Python would."""

    address = models.GenericIPAddressField(primary_key=True)
    n = models.IntegerField(default=0)


class Seat(models.Model):
    """By two columns, one of them a foreign key."""

    pk = models.CompositePrimaryKey("item_id", "number")
    item = models.ForeignKey(Item, models.CASCADE, related_name="seats")
    number = models.IntegerField()
    n = models.IntegerField(default=0)
    taken = models.BooleanField(null=True)
