"""The first tables, as `manage.py makemigrations` wrote them."""

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    """The tables of accounts, triggers and items."""

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Account",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "service",
                    models.CharField(
                        choices=[
                            ("ServicePocket", "Pocket"),
                            ("ServiceTrello", "Trello"),
                            ("ServiceMastodon", "Mastodon"),
                            ("ServiceWebhook", "a webhook"),
                        ],
                        max_length=20,
                    ),
                ),
                ("address", models.URLField(help_text="Where its API is.")),
                ("token", models.CharField(max_length=100)),
                (
                    "closed_until",
                    models.DateTimeField(blank=True, help_text="It refused us until then: nothing is sent before.", null=True),
                ),
                ("user", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name="Trigger",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=100)),
                (
                    "source",
                    models.CharField(
                        choices=[("ServiceRss", "a feed"), ("ServiceMastodon", "a tag on Mastodon, which is a feed too")],
                        default="ServiceRss",
                        max_length=20,
                    ),
                ),
                ("url", models.URLField(help_text="The address of the feed.", max_length=500)),
                ("is_active", models.BooleanField(default=True, verbose_name="on")),
                (
                    "most_at_once",
                    models.PositiveSmallIntegerField(default=5, help_text="So many items in one sweep; the others wait for the next."),
                ),
                ("state", models.TextField(blank=True, default="", editable=False)),
                (
                    "next_check",
                    models.DateTimeField(db_index=True, default=django.utils.timezone.now, help_text="Earlier for a source that is busy."),
                ),
                ("checked_at", models.DateTimeField(blank=True, editable=False, null=True)),
                ("trouble", models.CharField(blank=True, default="", editable=False, max_length=300)),
                (
                    "account",
                    models.ForeignKey(help_text="Where new items go.", on_delete=django.db.models.deletion.CASCADE, to="triggers.account"),
                ),
                ("user", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name="Item",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=100)),
                ("title", models.CharField(max_length=300)),
                ("link", models.URLField(max_length=1000)),
                ("date", models.DateTimeField()),
                ("begun_at", models.DateTimeField(blank=True, null=True)),
                ("done_at", models.DateTimeField(blank=True, db_index=True, null=True)),
                ("trigger", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="triggers.trigger")),
            ],
            options={
                "indexes": [models.Index(condition=models.Q(("done_at", None)), fields=["trigger"], name="waiting")],
                "constraints": [models.UniqueConstraint(fields=("trigger", "key"), name="once")],
            },
        ),
    ]
