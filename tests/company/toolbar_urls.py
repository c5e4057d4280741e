from debug_toolbar.toolbar import debug_toolbar_urls

from tests.company.urls import urlpatterns as ours

urlpatterns = [*ours, *debug_toolbar_urls()]
