import Core
import DriverKit

/// A digest of what every table says, whatever the order of its rows on disk: `postgresql-rows-v1`.
///
/// Per table: the number of rows, and the sums of two 64-bit hashes, of different seeds, of each row's text.
enum RowDigest {
  static let scheme = "postgresql-rows-v1"

  /// The same rows must print the same whatever the server is set to.
  private static let settings = """
    SET extra_float_digits = 3; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC';
    SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET row_security = off; SET search_path = pg_catalog;
    """

  /// Ordinary tables that survive a restore, in the order of their object ids: not temporary, not unlogged; not the
  /// server's own.
  static let tables = """
    SELECT format('%I.%I', n.nspname, c.relname), n.nspname || '.' || c.relname, c.relkind
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' ORDER BY c.oid
    """

  /// The same, in the digest's own order with what a reader needs: object id, quoted name, name, pages, and the
  /// transaction that wrote the catalog's row. Partitioned tables have no rows of their own.
  static let counted = """
    SELECT c.oid, format('%I.%I', n.nspname, c.relname), n.nspname || '.' || c.relname, c.relpages, c.xmin
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'p'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' ORDER BY c.oid
    """

  struct Table: Sendable {
    var oid: UInt32
    /// For statements.
    var quoted: String
    /// Schema and table, as parts of a digest are named after the database.
    var name: String
    var pages: Int64
    /// The low half of the id of the transaction that wrote the table's row in the catalog.
    var writer: UInt32
  }

  static func tables(_ connection: Connection) async throws(StatementFailure) -> [Table] {
    try await connection.run(counted).rows.compactMap { row in
      guard row.count == 5, let oid = row[0].flatMap({ UInt32($0) }), let quoted = row[1], let name = row[2] else {
        return nil
      }
      return Table(
        oid: oid, quoted: quoted, name: name, pages: row[3].flatMap { Int64($0) } ?? 0,
        writer: row[4].flatMap { UInt32($0) } ?? 0)
    }
  }

  /// To be run before the transaction whose snapshot counts: `SET` takes none.
  static func settle(_ connection: Connection) async throws(StatementFailure) { _ = try await connection.run(settings) }

  /// - Returns: `nil` if the server's answer makes no sense.
  static func part(_ connection: Connection, _ quoted: String) async throws(StatementFailure) -> ContentDigest.Part? {
    // The alias is one no column has; a column of its name would be hashed instead of the row.
    let sums =
      try await connection.run(
        """
        SELECT count(*), coalesce(sum(hashtextextended(salvor_row_::text, 0)::numeric), 0),
        coalesce(sum(hashtextextended(salvor_row_::text, 8675309)::numeric), 0) FROM ONLY \(quoted) AS salvor_row_
        """
      ).rows.first?.map { $0 ?? "" } ?? []
    guard sums.count == 3, let count = Int64(sums[0]) else { return nil }
    return ContentDigest.Part(digest: Digest.of(sums.joined(separator: " ")).hex, count: count)
  }
}

/// What a capture's digest covers, so that a restore compares that and nothing else.
struct DigestCoverage: Equatable, Sendable {
  /// Per database, the oldest transaction that its reader could not see the end of.
  var horizons: [String: UInt64] = [:]
  /// Parts that are in the copy and were not digested.
  var lacking: Set<String> = []

  /// Whether the table is to be compared, though it may have been left out of what was `recorded`.
  ///
  /// A table that was not recorded and that a transaction made which the reader could not see the end of, or in a
  /// database it knew nothing of, was made while writers waited.
  func covers(_ table: RowDigest.Table, of database: String, recorded: ContentDigest) -> Bool {
    let part = database + "." + table.name
    if lacking.contains(part) { return false }
    if recorded.parts[part] != nil { return true }
    guard let horizon = horizons[database] else { return false }
    // Ids are compared as the server does, on a circle.
    // Source: PostgreSQL 15, src/backend/access/transam/transam.c, TransactionIdPrecedes.
    return Int32(bitPattern: table.writer &- UInt32(truncatingIfNeeded: horizon)) < 0
  }
}
