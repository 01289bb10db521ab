import Core
import DriverKit

/// What a running server says about itself and its cluster.
struct ClusterFacts: Sendable {
  var version: String
  var versionNumber: Int
  var systemIdentifier: String
  var logLevel: String
  var geometry: LogGeometry
  var segmentBlocks: UInt32
  var tablespaceVersion: String
  var hasChecksums: Bool
  var isInRecovery: Bool
  var isSuperuser: Bool
  var settings: [String: String]
  var sizeBytes: Int64
  /// Set only if the user may see it.
  var dataDirectory: String?
  var configurationFile: String?

  var major: Int { versionNumber / 10_000 }

  /// The first version with `pg_backup_start`; the last this driver was made for is the next number.
  static let supported = 15...17

  private static let names = [
    "wal_level", "full_page_writes", "synchronous_commit", "fsync", "deadlock_timeout", "max_replication_slots",
    "max_slot_wal_keep_size", "data_checksums", "wal_segment_size", "segment_size", "block_size", "wal_block_size",
    "server_version", "server_version_num", "shared_preload_libraries",
  ]

  static func read(_ connection: Connection) async throws(DriverError) -> ClusterFacts {
    do {
      let rows = try await connection.run(
        """
        SELECT name, setting, unit FROM pg_settings WHERE name = ANY (string_to_array($1, ','))
        UNION ALL SELECT 'system_identifier', system_identifier::text, NULL FROM pg_control_system()
        UNION ALL SELECT 'catalog_version', catalog_version_no::text, NULL FROM pg_control_system()
        UNION ALL SELECT 'in_recovery', pg_is_in_recovery()::text, NULL
        UNION ALL SELECT 'superuser', rolsuper::text, NULL FROM pg_roles WHERE rolname = current_user
        UNION ALL SELECT 'size', sum(pg_database_size(oid))::bigint::text, NULL FROM pg_database WHERE datallowconn
        UNION ALL SELECT name, setting, unit FROM pg_settings WHERE name IN ('data_directory', 'config_file')
        """, [(names).joined(separator: ",")]
      ).rows
      var values: [String: String] = [:]
      for row in rows where row.count == 3 { if let name = row[0], let value = row[1] { values[name] = value } }
      return try ClusterFacts(values)
    } catch let error as DriverError {
      throw error
    } catch {
      throw (error as? StatementFailure)?.driverError("asking the server about itself") ?? DriverError(error)
    }
  }

  private init(_ values: [String: String]) throws(DriverError) {
    guard let number = values["server_version_num"].flatMap({ Int($0) }), let version = values["server_version"],
      let identifier = values["system_identifier"], let catalog = values["catalog_version"],
      let segment = values["wal_segment_size"].flatMap({ UInt64($0) }),
      let geometry = LogGeometry(segmentBytes: segment),
      let blocks = values["segment_size"].flatMap({ UInt32($0) }), blocks > 0
    else { throw .unsupported("the server does not say what it is; is it PostgreSQL?") }
    guard Self.supported.contains(number / 10_000) else {
      throw .unsupported(
        "PostgreSQL \(version): this driver knows \(Self.supported.lowerBound) to \(Self.supported.upperBound)")
    }
    guard values["block_size"] == "8192", values["wal_block_size"] == "8192" else {
      throw .unsupported("the server was built with pages of another size than 8192 bytes")
    }
    self.version = String(version.prefix { $0.isNumber || $0 == "." })
    versionNumber = number
    systemIdentifier = identifier
    logLevel = values["wal_level"] ?? ""
    self.geometry = geometry
    segmentBlocks = blocks
    tablespaceVersion = "PG_\(number / 10_000)_\(catalog)"
    hasChecksums = values["data_checksums"] == "on"
    isInRecovery = values["in_recovery"] == "true"
    isSuperuser = values["superuser"] == "true"
    settings = values
    sizeBytes = values["size"].flatMap { Int64($0) } ?? 0
    dataDirectory = values["data_directory"]
    configurationFile = values["config_file"]
  }

  /// - Throws: ``DriverError/unsupported(_:)`` for settings under which no consistent copy can be made.
  func requireCapturable() throws(DriverError) {
    if logLevel == "minimal" {
      throw .unsupported(
        "wal_level is minimal: set wal_level = replica and max_wal_senders > 0, and restart the server")
    }
    if isInRecovery {
      throw .unsupported(
        "the server is a standby, where writers can't be held: name the primary as host, and this server as standby")
    }
    if settings["max_replication_slots"] == "0" {
      throw .unsupported(
        "max_replication_slots is 0: set it to 1 or more and restart the server, so that it keeps its log during a backup"
      )
    }
  }

  /// - Throws: ``DriverError/unsupported(_:)`` unless this is a standby that a copy of that primary can be made of.
  func requireStandby(at address: ServerAddress, of primary: ClusterFacts) throws(DriverError) {
    guard systemIdentifier == primary.systemIdentifier else {
      throw .unsupported("the server at \(address) is of another cluster than the primary's: correct 'standby'")
    }
    guard isInRecovery else {
      throw .unsupported("the server at \(address) isn't a standby (any more): correct 'host' and 'standby'")
    }
    if primary.settings["full_page_writes"] == "off" {
      throw .unsupported(
        "full_page_writes is off on the primary, and a standby can't turn it on for the length of a backup: turn it on")
    }
    if settings["max_replication_slots"] == "0" {
      throw .unsupported("max_replication_slots is 0 on the standby: set it to 1 or more and restart it")
    }
  }

  var notes: [String] {
    var notes: [String] = []
    if settings["full_page_writes"] == "off" {
      notes.append(
        "full_page_writes is off: the server turns it on while a backup runs, but a power failure can tear its own pages"
      )
    }
    if settings["synchronous_commit"] == "off" {
      notes.append(
        "synchronous_commit is off: a crash of the server can lose commits it has acknowledged; a backup does not")
    }
    if settings["fsync"] == "off" { notes.append("fsync is off: a crash of the machine can damage the cluster") }
    if !hasChecksums {
      notes.append("data checksums are off: damaged pages are copied unnoticed; pg_checksums --enable turns them on")
    }
    if !isSuperuser {
      notes.append(
        "the user is no superuser: it needs REPLICATION, pg_read_all_data, pg_write_all_data, pg_monitor and EXECUTE on pg_backup_start and pg_backup_stop"
      )
    }
    return notes
  }
}
