from django.contrib import admin

from testproject.reports.models import Entry, Region, Report


class EntryInline(admin.TabularInline[Entry, Report]):
    model = Entry
    extra = 0


@admin.register(Region)
class RegionAdmin(admin.ModelAdmin[Region]):
    search_fields = ["name"]


@admin.register(Report)
class ReportAdmin(admin.ModelAdmin[Report]):
    list_display = ["region", "quarter", "currency"]
    list_filter = ["quarter", "currency"]
    list_select_related = ["region"]
    search_fields = ["region__name"]
    inlines = [EntryInline]
