from django.db import migrations

POLICY = """
ALTER TABLE tenants_invoice ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants_invoice FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON tenants_invoice
    USING (tenant = NULLIF(current_setting('app.tenant', true), '')::integer);
"""
UNDO = """
DROP POLICY own_rows ON tenants_invoice;
ALTER TABLE tenants_invoice NO FORCE ROW LEVEL SECURITY;
ALTER TABLE tenants_invoice DISABLE ROW LEVEL SECURITY;
"""


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial")]
    operations = [migrations.RunSQL(POLICY, UNDO, hints={"model_name": "invoice"})]
