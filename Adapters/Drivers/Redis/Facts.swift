import Core
import DriverKit

/// What a capture tells a restore, as the text that goes with the snapshot.
struct Facts: Sendable, Equatable {
  struct File: Sendable, Equatable {
    var bytes: Int64
    var digest: Digest
    /// The replication offset its end is at.
    var offset: Int64
  }

  var base: File?
  var increment: File?
  var commands: Int64 = 0
  var databases = 16
  /// Under the hold, from the source itself; `nil` if it wasn't held.
  var counts: [Int: KeyCount]?
  var settings = ServerSettings()

  var encoded: [String: String] {
    var result = ["commands": String(commands), "databases": String(databases)]
    for (name, file) in [("base", base), ("increment", increment)] {
      guard let file else { continue }
      result["\(name).bytes"] = String(file.bytes)
      result["\(name).sha256"] = file.digest.hex
      result["\(name).offset"] = String(file.offset)
    }
    if let counts {
      result["counted"] = "under the hold"
      for (index, count) in counts {
        result["db\(index).keys"] = String(count.keys)
        result["db\(index).expiring"] = String(count.expiring)
      }
    }
    for (name, value) in settings.values { result["config.\(name)"] = value }
    return result
  }

  init() {}

  init(_ facts: [String: String]) throws(DriverError) {
    func file(_ name: String) throws(DriverError) -> File {
      guard let bytes = facts["\(name).bytes"].flatMap({ Int64($0) }), bytes >= 0,
        let digest = facts["\(name).sha256"].flatMap({ Digest(hex: $0) }),
        let offset = facts["\(name).offset"].flatMap({ Int64($0) })
      else { throw .corrupt("the snapshot doesn't say what its \(name) file is") }
      return File(bytes: bytes, digest: digest, offset: offset)
    }
    base = try file("base")
    increment = try file("increment")
    commands = facts["commands"].flatMap { Int64($0) } ?? 0
    databases = facts["databases"].flatMap { Int($0) }.map { min(max($0, 1), 1_000_000) } ?? 16
    if facts["counted"] != nil {
      var counts: [Int: KeyCount] = [:]
      for (name, value) in facts where name.hasPrefix("db") {
        let parts = name.dropFirst(2).split(separator: ".")
        guard parts.count == 2, let index = Int(parts[0]), let number = Int64(value) else { continue }
        if parts[1] == "keys" { counts[index, default: KeyCount()].keys = number }
        if parts[1] == "expiring" { counts[index, default: KeyCount()].expiring = number }
      }
      self.counts = counts
    }
    for (name, value) in facts where name.hasPrefix("config.") { settings.values[String(name.dropFirst(7))] = value }
  }
}
