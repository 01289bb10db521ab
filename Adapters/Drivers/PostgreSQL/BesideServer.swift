import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A server on a restored data directory that nobody but us can reach, and that does nothing of its own accord.
struct BesideServer: Sendable {
  /// The restored data directory.
  var data: String
  /// Where our own files go: a configuration, access rules, the socket, the log.
  var control: String
  var preloaded: String
  /// What recovery is told beyond the usual, such as a target; none ends it at the end of the log that is there.
  var recovery: [(String, String)] = []

  /// The one directory the server's user may write to, and nobody else may enter.
  ///
  /// A socket's path has room for 107 bytes, so a deep workspace needs another place for it.
  var socket: String {
    let usual = control + "/socket"
    return usual.utf8.count <= 80 ? usual : "/tmp/.salvor-" + Digest.of(control).short
  }

  var log: String { socket + "/server.log" }

  /// Overrides of what the captured configuration says. On the command line, since `postgresql.auto.conf` is read after
  /// every file.
  var settings: [(String, String)] {
    var result = [
      // Reach: no network, a socket in a private directory, everyone there is us.
      ("data_directory", data), ("listen_addresses", ""), ("unix_socket_directories", socket), ("port", "5432"),
      ("unix_socket_permissions", "0700"), ("hba_file", control + "/pg_hba.conf"),
      ("ident_file", control + "/pg_ident.conf"),
      ("external_pid_file", ""), ("ssl", "off"),
      // Recovery: to the end of the captured log, which is the mark, and onto a timeline of its own.
      ("restore_command", "false"), ("recovery_target", ""), ("recovery_target_lsn", ""), ("recovery_target_name", ""),
      ("recovery_target_time", ""), ("recovery_target_xid", ""), ("recovery_target_timeline", "current"),
      ("archive_cleanup_command", ""), ("recovery_end_command", ""), ("primary_conninfo", ""),
      ("primary_slot_name", ""),
      ("hot_standby", "off"),
      // No effect on the world: no archive, no subscriptions, no jobs, nobody to wait for.
      ("archive_mode", "off"), ("synchronous_standby_names", ""),
      // Of a delayed standby's own configuration.
      ("recovery_min_apply_delay", "0"), ("max_logical_replication_workers", "0"),
      ("cron.launch_active_jobs", "off"), ("autovacuum", "off"),
      // Beside a live server: little memory. And what it writes must last.
      ("shared_buffers", "128MB"), ("huge_pages", "off"), ("fsync", "on"), ("logging_collector", "off"),
      ("log_destination", "stderr"), ("lc_messages", "C"),
    ]
    for (name, value) in recovery {
      result.removeAll { $0.0 == name }
      result.append((name, value))
    }
    if !Files.exists(data + "/postgresql.conf") { result.append(("config_file", control + "/postgresql.conf")) }
    return result
  }

  /// pg_ctl hands its options to a shell.
  var commandLine: String {
    settings.map { "-c " + Self.quoted("\($0.0)=\($0.1)") }.joined(separator: " ")
  }

  static func quoted(_ text: String) -> String {
    "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
  }

  /// Writes what the server needs to start: ours, for its user to read. Blocks.
  func writeFiles(owner: SystemUser?) throws(SystemFailure) {
    try makePassage(control)
    let libraries =
      "'" + preloaded.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "''") + "'"
    for (name, text) in [
      ("pg_hba.conf", "local all all trust\n"), ("pg_ident.conf", ""),
      ("postgresql.conf", "shared_preload_libraries = \(libraries)\n"),
    ] {
      try Files.replace(control + "/" + name, with: Array(text.utf8), mode: 0o644)
    }
    try makeOwnDirectory(socket, owner)
  }
}

/// A directory of ours that others may pass but neither list nor change. Blocks.
func makePassage(_ path: String) throws(SystemFailure) {
  try Files.createDirectory(path, mode: 0o711)
  guard chmod(path, 0o711) == 0 else { throw SystemFailure("chmod", path: path) }
}
