from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin

from testproject.reports.models import Entry, Region, Report

if TYPE_CHECKING:
    EntryInlineBase = admin.TabularInline[Entry, Report]
    RegionAdminBase = admin.ModelAdmin[Region]
    ReportAdminBase = admin.ModelAdmin[Report]
else:  # generic for the type checker alone
    EntryInlineBase = admin.TabularInline
    RegionAdminBase = ReportAdminBase = admin.ModelAdmin


class EntryInline(EntryInlineBase):
    model = Entry
    extra = 0


@admin.register(Region)
class RegionAdmin(RegionAdminBase):
    search_fields = ["name"]


@admin.register(Report)
class ReportAdmin(ReportAdminBase):
    list_display = ["region", "quarter", "currency"]
    list_filter = ["quarter", "currency"]
    list_select_related = ["region"]
    search_fields = ["region__name"]
    inlines = [EntryInline]
