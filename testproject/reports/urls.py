from django.urls import path

from testproject.reports import views

app_name = "reports"

urlpatterns = [
    path("", views.index, name="index"),
    path("naive/", views.naive, name="naive"),
    path("fixed/", views.fixed, name="fixed"),
    path("kept/", views.kept, name="kept"),
    path("<int:pk>/priced/", views.priced, name="priced"),
    path("<int:pk>/priced/async/", views.priced_async, name="priced-async"),
]
