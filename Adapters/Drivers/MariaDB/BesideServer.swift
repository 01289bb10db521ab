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
  /// Where our own files go: the socket, the log, and the binary log that is replayed.
  var control: String
  var variables: [String: String]
  /// Plugins that users are known by, with their libraries.
  var authentication: [String] = []

  /// A socket's path has room for 107 bytes, so a deep workspace needs another place for it.
  var socketDirectory: String {
    let usual = control + "/socket"
    return usual.utf8.count <= 80 ? usual : "/tmp/.salvor-" + Digest.of(control).short
  }

  var socket: String { socketDirectory + "/s.sock" }
  var log: String { socketDirectory + "/server.log" }
  /// Holds `relay.000001` and on: a server reads another's binary log as its relay log.
  var relay: String { control + "/relay" }

  /// What the table of events is made of again.
  var events: String { control + "/events" }

  static func relayName(_ index: Int) -> String {
    let digits = String(index + 1)
    return "relay." + String(repeating: "0", count: max(0, 6 - digits.count)) + digits
  }

  /// - Parameter layout: What mariadb-backup wrote about InnoDB's files.
  func arguments(_ layout: [String: String]) -> [String] {
    [
      "--no-defaults", "--datadir=\(data)",
      // Reach: no network, a socket in a private directory, everyone there is us.
      "--skip-networking", "--socket=\(socket)", "--skip-grant-tables", "--pid-file=\(socketDirectory)/pid",
      "--log-error=\(log)", "--local-infile=0", "--tmpdir=\(socketDirectory)",
      // Replay: of what is there, and only when told to; a number no event has been given.
      "--skip-slave-start", "--skip-log-bin", "--server-id=4294967295", "--relay-log=\(relay)/relay",
      "--relay-log-index=\(relay)/relay.index", "--relay-log-info-file=\(relay)/relay-log.info",
      "--master-info-file=\(relay)/master.info", "--relay-log-purge=0", "--slave-sql-verify-checksum=1",
      "--slave-exec-mode=STRICT", "--gtid-strict-mode=0", "--slave-skip-errors=\(EventTable.refusal)",
      // What is defined twice contradicts the log: the usual is to define it anew without a word.
      "--slave-ddl-exec-mode=STRICT",
      // No effect on the world.
      "--event-scheduler=OFF", "--general-log=0", "--slow-query-log=0",
      // Beside a live server: little memory. What it does is made durable when it stops.
      "--innodb-buffer-pool-size=128M", "--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-load-at-startup=0",
      "--innodb-buffer-pool-dump-at-shutdown=0", "--performance-schema=0", "--max-allowed-packet=1G",
    ]
      // Without rights, none of those that people installed is loaded.
      + authentication.map { "--plugin-load-add=\($0)" }
      + layout.sorted { $0.key < $1.key }.map { "--\($0.key.replacing("_", with: "-"))=\($0.value)" }
      + variables.sorted { $0.key < $1.key }.filter { !$0.value.isEmpty }.map {
        "--\($0.key.replacing("_", with: "-"))=\($0.value)"
      }
  }

  /// Settings without which a server can't read InnoDB's files, from a copy's `backup-my.cnf`. Blocks.
  ///
  /// - Throws: ``DriverError/corrupt(_:)`` if a value leads out of the copy.
  static func layout(in data: String) throws(DriverError) -> [String: String] {
    let wanted: Set<String> = [
      "innodb_checksum_algorithm", "innodb_data_file_path", "innodb_page_size", "innodb_undo_tablespaces",
      "innodb_compression_level", "innodb_log_file_size",
    ]
    var result: [String: String] = [:]
    let text: String
    do throws(SystemFailure) {
      text = String(decoding: try Files.read(data + "/backup-my.cnf", limitBytes: 1 << 16), as: UTF8.self)
    } catch { throw error.number == ENOENT ? .corrupt("the copy has no backup-my.cnf") : DriverError(error) }
    for line in text.split(whereSeparator: \.isNewline) {
      let parts = line.split(separator: "=", maxSplits: 1).map(String.init)
      guard parts.count == 2, !line.hasPrefix("#") else { continue }
      let (name, value) = (parts[0], parts[1])
      if name == "plugin_load" {
        // What compressed pages are read with: `;provider_lz4=provider_lz4.so…`.
        let plugins = value.split(separator: ";").map(String.init)
        guard plugins.allSatisfy({ $0.wholeMatch(of: /(provider_[a-z0-9]+)(=\1(\.so)?)?/) != nil }) else {
          throw .unsupported("the copy needs a plugin to be read that is none for compression: \(line)")
        }
        if !plugins.isEmpty { result["plugin_load_add"] = plugins.joined(separator: ";") }
        continue
      }
      guard wanted.contains(name) else { continue }
      guard value == "./" || value.utf8.allSatisfy({ $0 > 32 && $0 < 127 && $0 != 47 }) else {
        throw .corrupt("backup-my.cnf says '\(line)'")
      }
      result[name] = value
    }
    return result
  }
}

/// A directory of ours that others may pass but neither list nor change. Blocks.
func makePassage(_ path: String) throws(SystemFailure) {
  try Files.createDirectory(path, mode: 0o711)
  guard chmod(path, 0o711) == 0 else { throw SystemFailure("chmod", path: path) }
}
