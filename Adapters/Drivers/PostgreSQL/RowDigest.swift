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

  /// To be run before the transaction whose snapshot counts: `SET` takes none.
  static func settle(_ connection: Connection) async throws(StatementFailure) { _ = try await connection.run(settings) }

  static func parts(_ connection: Connection, database: String) async throws(StatementFailure) -> [String: ContentDigest
    .Part]
  {
    var result: [String: ContentDigest.Part] = [:]
    for row in try await connection.run(tables).rows where row.count == 3 && row[2] == "r" {
      guard let quoted = row[0], let name = row[1] else { continue }
      // The alias is one no column has; a column of its name would be hashed instead of the row.
      let sums =
        try await connection.run(
          """
          SELECT count(*), coalesce(sum(hashtextextended(salvor_row_::text, 0)::numeric), 0),
          coalesce(sum(hashtextextended(salvor_row_::text, 8675309)::numeric), 0) FROM ONLY \(quoted) AS salvor_row_
          """
        ).rows.first?.map { $0 ?? "" } ?? []
      guard sums.count == 3, let count = Int64(sums[0]) else { continue }
      result[database + "." + name] = ContentDigest.Part(
        digest: Digest.of(sums.joined(separator: " ")).hex, count: count)
    }
    return result
  }
}
