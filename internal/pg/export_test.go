package pg

// MigrateFiles is Migrate with other migrations.
var MigrateFiles = migrate
