import Core
import DriverKit

/// What a running server says about itself, and what follows for a capture.
struct ServerFacts: Sendable {
  /// Such as `10.11.19`.
  var version: String
  var variables: [String: String]
  /// Engines of tables that people made, with how many tables each has.
  var engines: [String: Int]
  var binlogFilters: Bool
  /// Plugins that users are known by, with their libraries: `ed25519=auth_ed25519.so`.
  var authentication: [String] = []

  /// Engines whose tables are copied and whose changes are in the binary log.
  static let heldEngines: Set<String> = ["InnoDB", "Aria", "MyISAM"]

  /// Schemas that are the server's own.
  static let ownSchemas = "('mysql', 'information_schema', 'performance_schema', 'sys')"

  /// What a statement in the log leaves to the server that executes it; replayed under the same.
  static let replayed = [
    "lower_case_table_names", "explicit_defaults_for_timestamp", "default_storage_engine", "enforce_storage_engine",
    "character_set_server", "collation_server", "innodb_default_row_format", "innodb_file_per_table",
    "innodb_strict_mode", "innodb_compression_default", "default_week_format",
    // What words an index for full text has.
    "innodb_ft_min_token_size", "innodb_ft_max_token_size", "innodb_ft_enable_stopword", "ft_min_word_len",
    "ft_max_word_len",
  ]

  private static let asked =
    [
      "datadir", "log_bin", "log_bin_basename", "log_bin_index", "binlog_format", "encrypt_binlog",
      "log_slave_updates", "wsrep_on",
      "gtid_slave_pos", "innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory",
      "aria_log_dir_path", "innodb_page_size", "version", "read_only", "server_id", "innodb_force_recovery",
      "innodb_immediate_scrub_data_uncompressed",
    ] + replayed

  static func read(_ connection: Connection) async throws(DriverError) -> ServerFacts {
    do throws(StatementFailure) {
      let version = try await connection.value("SELECT VERSION()") ?? ""
      guard version.contains("MariaDB") else {
        throw StatementFailure(code: 1, message: "the server is '\(version)'; mariadb-backup copies MariaDB only")
      }
      // Without this right, tables are not shown, and what isn't shown can't be judged.
      let grants = try await connection.run("SHOW GRANTS").rows.compactMap { $0.first ?? nil }
      guard grants.contains(where: Self.readsEverything) else {
        throw StatementFailure(code: 1142, message: "the user has no SELECT ON *.*, so tables are hidden from it")
      }
      let list = asked.map { "'\($0)'" }.joined(separator: ", ")
      let rows = try await connection.run("SHOW GLOBAL VARIABLES WHERE Variable_name IN (\(list))").rows
      let variables = Dictionary(
        rows.compactMap { row in row.count == 2 ? row[0].map { ($0, row[1] ?? "") } : nil },
        uniquingKeysWith: { first, _ in first })
      let engines = try await connection.run(
        """
        SELECT ENGINE, COUNT(*) FROM information_schema.TABLES
        WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE') AND TABLE_SCHEMA NOT IN \(ownSchemas)
        GROUP BY ENGINE
        """
      ).rows
      let plugins = try await connection.run(
        """
        SELECT PLUGIN_NAME, PLUGIN_LIBRARY FROM information_schema.PLUGINS
        WHERE PLUGIN_TYPE = 'AUTHENTICATION' AND PLUGIN_STATUS = 'ACTIVE' AND PLUGIN_LIBRARY IS NOT NULL
        """
      ).rows
      var filters = false
      if variables["log_bin"] == "ON" {
        filters = try await connection.row("SHOW MASTER STATUS", 4)[2...3].contains { $0?.isEmpty == false }
      }
      return ServerFacts(
        version: String(version.prefix { $0.isNumber || $0 == "." }), variables: variables,
        engines: Dictionary(
          engines.compactMap { row in row.count == 2 ? (row[0] ?? "unknown", row[1].flatMap { Int($0) } ?? 0) : nil },
          uniquingKeysWith: { first, _ in first }), binlogFilters: filters,
        authentication: plugins.compactMap { row in
          row.count == 2 ? row[0].flatMap { name in row[1].map { "\(name)=\($0)" } } : nil
        }.filter(Self.isPlugin).sorted())
    } catch {
      if error.code == 1 { throw .unsupported(error.message) }
      throw error.driverError("asking the server about itself")
    }
  }

  /// Whether a line of `SHOW GRANTS` gives SELECT on everything.
  static func readsEverything(_ grant: String) -> Bool {
    guard grant.hasPrefix("GRANT "), let end = grant.firstRange(of: " ON *.* TO ") else { return false }
    return grant[..<end.lowerBound].dropFirst(6).split(separator: ",").contains { part in
      ["SELECT", "ALL PRIVILEGES"].contains(part.drop { $0 == " " })
    }
  }

  /// Whether it can be a plugin with its library: it becomes an argument.
  static func isPlugin(_ text: String) -> Bool {
    text.wholeMatch(of: /[A-Za-z0-9_]{1,64}=[A-Za-z0-9_]{1,64}(\.so)?/) != nil
  }

  /// `10.11`, which must be the same where a copy is restored.
  static func series(_ version: String) -> String { version.split(separator: ".").prefix(2).joined(separator: ".") }

  var isLogged: Bool { variables["log_bin"] == "ON" }

  /// Whether a copy can be brought to the position of a hold: only by the binary log, and only if that tells everything.
  var hold: HoldSupport {
    guard isLogged else {
      return .outside(
        why: "the server writes no binary log, so a copy can't be brought to an agreed position: "
          + "set log_bin and binlog_format=ROW")
    }
    if variables["binlog_format"] != "ROW" {
      return .outside(
        why: "the binary log holds statements, which may do something else when they are repeated: "
          + "set binlog_format=ROW")
    }
    if binlogFilters {
      return .outside(why: "binlog_do_db or binlog_ignore_db keeps changes out of the binary log: remove them")
    }
    if variables["encrypt_binlog"] == "ON" {
      return .outside(why: "the binary log is encrypted, and the driver has no key to it: set encrypt_binlog=OFF")
    }
    if variables["log_slave_updates"] != "ON", variables["gtid_slave_pos"]?.isEmpty == false {
      return .outside(
        why: "the server replicates from another, and its binary log lacks what comes from there: set log_slave_updates"
      )
    }
    if variables["log_slave_updates"] != "ON", variables["wsrep_on"] == "ON" {
      return .outside(
        why: "the server is one of a Galera cluster, and its binary log lacks what comes from the others: "
          + "set log_slave_updates")
    }
    let others = engines.keys.filter { !Self.heldEngines.contains($0) }.sorted()
    if !others.isEmpty {
      let names = others.map { "\(engines[$0] ?? 0) of \($0)" }.joined(separator: ", ")
      return .outside(
        why: "there are tables whose rows a copy doesn't have, or that can't be brought forward with it: \(names); "
          + "alter them to InnoDB, Aria or MyISAM")
    }
    return .held(how: "BACKUP STAGE BLOCK_COMMIT")
  }

  var isHeld: Bool {
    if case .held = hold { return true }
    return false
  }

  var notes: [String] {
    var notes: [String] = []
    let unread = (engines["Aria"] ?? 0) + (engines["MyISAM"] ?? 0)
    if unread > 0 { notes.append("no content digest of \(unread) Aria and MyISAM tables, which keep no snapshot") }
    if case .outside = hold, (engines["MEMORY"] ?? 0) > 0 { notes.append("tables of MEMORY are copied empty") }
    return notes
  }

  /// - Throws: ``DriverError/unsupported(_:)`` where files of the server are in several places.
  func requireCapturable() throws(DriverError) {
    let data = Self.directory(variables["datadir"] ?? "")
    for name in ["innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory", "aria_log_dir_path"] {
      let place = variables[name] ?? ""
      if place.isEmpty || place == "." || place == "./" || Self.directory(place) == data { continue }
      throw .unsupported("\(name) is \(place), outside the data directory: keep everything in \(data)")
    }
  }

  static func directory(_ path: String) -> String {
    var path = path
    while path.count > 1, path.hasSuffix("/") { path.removeLast() }
    return path
  }
}
