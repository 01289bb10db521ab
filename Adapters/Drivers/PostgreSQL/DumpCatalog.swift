import Core
import DriverKit

/// What a database holds, as its catalogs say it to a snapshot.
enum DumpCatalog {
  /// Every table and what can be named in its place, with what belongs to it: a JSON object a row.
  ///
  /// Members are named by class and object, as a dump's table of contents names them: names may hold anything, these can't.
  ///
  /// Source: PostgreSQL 15, chapter 53, "System Catalogs".
  static let tables = """
    SELECT json_build_object(
      'schema', n.nspname, 'name', c.relname, 'sql', format('%I.%I', n.nspname, c.relname), 'id', c.oid::text,
      'schemaID', n.oid::text,
      'parent', (SELECT format('%I.%I', pn.nspname, p.relname) FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
        JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE i.inhrelid = c.oid AND c.relispartition),
      'members', (SELECT json_agg(m.class::text || ':' || m.id ORDER BY m.class, m.id) FROM \(members)),
      'links', coalesce((SELECT json_agg(json_build_object('member', '2606:' || k.oid,
          'target', format('%I.%I', fn.nspname, f.relname)) ORDER BY k.oid)
        FROM pg_constraint k JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
        WHERE k.conrelid = c.oid AND k.contype = 'f'), '[]'),
      'roles', (SELECT json_agg(DISTINCT r.rolname) FROM pg_roles r WHERE r.oid = c.relowner
        OR r.oid IN (SELECT (aclexplode(c.relacl)).grantee)
        OR r.oid IN (SELECT (aclexplode(a.attacl)).grantee FROM pg_attribute a WHERE a.attrelid = c.oid)
        OR r.oid IN (SELECT unnest(p.polroles) FROM pg_policy p WHERE p.polrelid = c.oid)),
      'extensions', coalesce((SELECT json_agg(DISTINCT e.extname) FROM \(members)
        JOIN pg_depend u ON u.classid = m.class AND u.objid = m.id
        LEFT JOIN pg_type t ON u.refclassid = 'pg_type'::regclass AND t.oid = u.refobjid AND t.typelem <> 0
        JOIN pg_depend x ON x.classid = u.refclassid AND x.objid = coalesce(t.typelem, u.refobjid) AND x.deptype = 'e'
        JOIN pg_extension e ON e.oid = x.refobjid WHERE e.extname <> 'plpgsql'), '[]'))::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm', 'v', 'f') AND c.relpersistence <> 't'
      AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
      AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY n.nspname, c.relname
    """

  private static let members = """
    (SELECT 'pg_class'::regclass::oid, c.oid
      UNION ALL SELECT 'pg_class'::regclass::oid, indexrelid FROM pg_index WHERE indrelid = c.oid
      UNION ALL SELECT 'pg_constraint'::regclass::oid, oid FROM pg_constraint WHERE conrelid = c.oid
      UNION ALL SELECT 'pg_attrdef'::regclass::oid, oid FROM pg_attrdef WHERE adrelid = c.oid
      UNION ALL SELECT 'pg_trigger'::regclass::oid, oid FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal
      UNION ALL SELECT 'pg_rewrite'::regclass::oid, oid FROM pg_rewrite WHERE ev_class = c.oid
      UNION ALL SELECT 'pg_policy'::regclass::oid, oid FROM pg_policy WHERE polrelid = c.oid
      UNION ALL SELECT 'pg_statistic_ext'::regclass::oid, oid FROM pg_statistic_ext WHERE stxrelid = c.oid
      UNION ALL SELECT d.classid, d.objid FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
          AND d.deptype IN ('a', 'i')) AS m(class, id)
    """

  /// Roles that own something in this database, or have rights to it. The one a cluster begins with is in no list of its own.
  static let roles = """
    SELECT DISTINCT r.rolname FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
    WHERE d.refclassid = 'pg_authid'::regclass AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND d.deptype IN ('o', 'a', 'r') ORDER BY 1
    """

  static let extensions = "SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1"

  /// How a database like this one is made. What the columns are called differs by version.
  static let creation = """
    SELECT pg_encoding_to_char(encoding), datcollate, datctype, coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),
      coalesce(to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale', '')
    FROM pg_database d WHERE datname = current_database()
    """

  static func decode(_ rows: [[String?]], _ isWanted: (StoreDump.Table) -> Bool = { _ in true }) throws(DumpError)
    -> [StoreDump.Table]
  {
    do {
      return try rows.compactMap { $0.first ?? nil }.map {
        try CanonicalJSON.decode(StoreDump.Table.self, from: Array($0.utf8))
      }.filter(isWanted)
    } catch { throw DumpError(error) }
  }
}

/// The statement that makes a database like the one a dump is of, by another name.
func createDatabase(_ name: String, like facts: [String: String]) -> String {
  var statement =
    "CREATE DATABASE \(identifier(name)) TEMPLATE template0 ENCODING \(quotedLiteral(facts["encoding"] ?? "UTF8"))"
  if let collation = facts["collate"] { statement += " LC_COLLATE \(quotedLiteral(collation))" }
  if let type = facts["ctype"] { statement += " LC_CTYPE \(quotedLiteral(type))" }
  switch facts["localeProvider"] {
  case "i": statement += " LOCALE_PROVIDER icu ICU_LOCALE \(quotedLiteral(facts["locale"] ?? ""))"
  case "b": statement += " LOCALE_PROVIDER builtin BUILTIN_LOCALE \(quotedLiteral(facts["locale"] ?? ""))"
  default: break
  }
  return statement
}

/// Whatever `standard_conforming_strings` says.
func quotedLiteral(_ text: String) -> String {
  text.contains("\\")
    ? "E'" + text.replacing("\\", with: "\\\\").replacing("'", with: "''") + "'"
    : "'" + text.replacing("'", with: "''") + "'"
}
