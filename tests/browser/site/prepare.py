"""Tables and people; run as a script, once for each database."""

import django


def main() -> None:
    django.setup()
    from django.contrib.auth.models import Permission, User
    from django.core.management import call_command

    from tests.browser.shop import PASSWORD, PEOPLE

    call_command("migrate", verbosity=0)
    for person in PEOPLE:
        user = User.objects.create_user(
            person.name, password=PASSWORD, is_staff=person.staff, is_superuser=person.superuser
        )
        if person.permissions:
            given = Permission.objects.filter(content_type__app_label="django_dbpool", codename__in=person.permissions)
            assert len(given) == len(person.permissions), person
            user.user_permissions.set(given)


if __name__ == "__main__":
    main()
