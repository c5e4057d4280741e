"""Views, viewsets and serializers: N+1 in the places where it hides."""

from functools import lru_cache

from django.contrib import admin
from django.db.models import Count, Exists, OuterRef, Prefetch, Q
from django.http import JsonResponse
from django.views.generic import ListView
from rest_framework import viewsets
from rest_framework.decorators import action
from rest_framework.response import Response

from shop.models import Author, Book, Loan, Rate, Tag
from shop.prices import price_of


def _copies(book):
    return book.copies.filter(lent=False).count()


def _is_lent(pk):
    return Loan.objects.filter(book_id=pk, returned=None).exists()


@lru_cache(maxsize=None)
def _rate(currency):
    return Rate.objects.get(currency=currency).value


def _label(book):
    return f"{book.title} ({book.year})"


def counts_in_a_dict(request):
    tags = request.GET.getlist("tag")
    return JsonResponse({tag: Book.objects.filter(tags__name=tag).count() for tag in tags})  # expect: DBP301


def related_count(request):
    authors = []
    for author in Author.objects.all():
        authors.append({"name": author.name, "books": author.books.count()})  # expect: DBP301
    return JsonResponse({"authors": authors})


def related_all():
    for author in Author.objects.order_by("name"):
        for book in author.books.all():  # expect: DBP301
            print(author, book)


def second_for_of_a_comprehension():
    return [book.title for author in Author.objects.all() for book in author.books.all()]  # expect: DBP301


def generator_in_sum():
    authors = Author.objects.filter(active=True)
    return sum(author.books.count() for author in authors)  # expect: DBP301


def set_comprehension(pks):
    return {Book.objects.get(pk=pk).isbn for pk in pks}  # expect: DBP301


def helper_in_a_comprehension(pks):
    return [pk for pk in pks if _is_lent(pk)]  # expect: DBP301


def helper_in_a_loop(books):
    lent = 0
    for pk in books:
        lent += _is_lent(pk)  # expect: DBP301
    return lent


def helper_defined_below(pks):
    return [_title(pk) for pk in pks]  # expect: DBP301


def _title(pk):
    return Book.objects.values_list("title", flat=True).get(pk=pk)


def membership(isbns):
    for isbn in isbns:
        if isbn in Book.objects.values_list("isbn", flat=True):  # expect: DBP301
            yield isbn


def aggregated(authors):
    for author in authors:
        yield Book.objects.filter(author=author).aggregate(n=Count("pk"))  # expect: DBP301


def nested_helper(request):
    def available(pk):
        return Book.objects.filter(pk=pk, copies__lent=False).exists()

    return JsonResponse({pk: available(pk) for pk in request.GET.getlist("pk")})  # expect: DBP301


class BookViewSet(viewsets.ModelViewSet):
    queryset = Book.objects.all()

    @action(detail=False, methods=["post"])
    def lend(self, request):
        for pk in request.data["books"]:
            Loan.objects.create(book_id=pk, user=request.user)  # expect: DBP301
        return Response(status=201)

    @action(detail=False)
    def overview(self, request):
        rows = [self._row(pk) for pk in request.query_params.getlist("pk")]  # expect: DBP301
        return Response(rows)

    def _row(self, pk):
        book = Book.objects.get(pk=pk)
        return {"title": book.title}

    @action(detail=False)
    def silent_labels(self, request):
        return Response([_label(book) for book in self.get_queryset()])

    def own_queryset(self):
        for book in self.get_queryset():
            book.save()  # either: DBP301


class AuthorList(ListView):
    model = Author

    def get_queryset(self):
        queryset = Author.objects.prefetch_related("books", Prefetch("prizes", to_attr="all_prizes"))
        for name in self.request.GET.getlist("name"):
            queryset = queryset.filter(name__icontains=name)
        return queryset

    def get_context_data(self, **kwargs):
        context = super().get_context_data(**kwargs)
        for author in context["object_list"]:
            author.label = author.name.title()
        return context


@admin.action(description="Publish")
def publish(modeladmin, request, queryset):
    for book in queryset:
        book.save()  # either: DBP301


def prefetched():
    for author in Author.objects.prefetch_related("books"):
        for book in author.books.all():
            print(author, book, author.books.count())


def prefetched_in_a_name():
    authors = Author.objects.filter(active=True).prefetch_related(
        Prefetch("books", queryset=Book.objects.only("title"))
    )
    return {author.pk: [book.title for book in author.books.all()] for author in authors}


def prefetched_but_filtered_again():
    for author in Author.objects.prefetch_related("books"):
        print(author.books.filter(year=2020).count())  # expect: DBP301


def only_built(tags):
    books = Book.objects.all()
    parts = []
    for tag in tags:
        books = books.filter(tags__name=tag)
        parts.append(Book.objects.filter(tags__name=tag).only("title"))
    return books, Book.objects.none().union(*parts)


def built_into_expressions(tags):
    wanted = Q()
    annotations = {}
    for tag in tags:
        wanted |= Q(tags__name=tag)
        annotations[f"has_{tag}"] = Exists(Tag.objects.filter(name=tag, books=OuterRef("pk")))
    return Book.objects.filter(wanted).annotate(**annotations)


def annotated():
    for author in Author.objects.annotate(n=Count("books")):
        print(author.name, author.n)


def few_constants():
    return {status: Loan.objects.filter(status=status).count() for status in ("open", "late", "lost")}


def few_constants_in_a_loop(user):
    for kind in ["print", "audio"]:
        Loan.objects.filter(user=user, kind=kind).update(seen=True)


def few_constants_by_name():
    kinds = ("print", "audio")
    for kind in kinds:
        print(Book.objects.filter(kind=kind).count())  # either: DBP301


def cached_helper(prices):
    return [amount * _rate(currency) for currency, amount in prices]  # either: DBP301


def helper_of_another_module(books):
    return [price_of(book) for book in books]


def defined_in_the_loop(pks):
    later = []
    for pk in pks:

        def load(pk=pk):
            return Book.objects.get(pk=pk)

        later.append(load)
        later.append(lambda pk=pk: Book.objects.get(pk=pk))
    return later


def helper_not_called(books):
    for book in books:
        book.copies_of = _copies
    return books
