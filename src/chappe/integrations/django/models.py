"""What a project's own database keeps for Chappe: messages of transactions until they are sent, and the calls of `django.tasks`."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.utils import timezone


class Outbox(models.Model):
    """A message that leaves when the transaction that wrote this row is committed."""

    type = models.CharField(max_length=255)
    publication = models.BinaryField()
    written_at = models.DateTimeField(default=timezone.now)
    refused_at = models.DateTimeField(null=True)
    error = models.TextField(null=True)

    class Meta:
        """Named in the plural, as Django shows it."""

        verbose_name_plural = "outbox"

    def __str__(self) -> str:
        return f"{self.type} {self.pk}"


class Call(models.Model):
    """One call of a task of `django.tasks`, and what became of it."""

    id = models.CharField(primary_key=True, max_length=36)
    task = models.CharField(max_length=500)
    backend = models.CharField(max_length=100)
    queue_name = models.CharField(max_length=200)
    priority = models.IntegerField()
    run_after = models.DateTimeField(null=True)
    args: models.JSONField[Any] = models.JSONField()
    kwargs: models.JSONField[Any] = models.JSONField()
    status = models.CharField(max_length=20, db_index=True)
    enqueued_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    last_attempted_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True, db_index=True)
    errors: models.JSONField[Any] = models.JSONField(default=list)
    worker_ids: models.JSONField[Any] = models.JSONField(default=list)
    return_value: models.JSONField[Any] = models.JSONField(null=True)

    def __str__(self) -> str:
        return f"{self.task} {self.id}"


class Queue(models.Model):
    """The queues of the application, which are no table: for the admin, and for its permissions."""

    class Meta:
        """There is nothing to add, change or delete."""

        managed = False
        default_permissions: ClassVar = ("view",)


class DeadLetter(models.Model):
    """Messages that could not be handled, which are no table: who may change them may retry them, who may delete them discard them."""

    class Meta:
        """There is nothing to add."""

        managed = False
        default_permissions: ClassVar = ("view", "change", "delete")
