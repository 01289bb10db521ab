import Core

/// An answer of `INFO`: lines of `name:value`, sections dropped.
struct Info: Sendable, Equatable {
  private(set) var values: [String: String] = [:]

  init(_ text: String) {
    for line in text.split(whereSeparator: \.isNewline) where !line.hasPrefix("#") {
      guard let colon = line.firstIndex(of: ":") else { continue }
      values[String(line[..<colon])] = String(line[line.index(after: colon)...])
    }
  }

  subscript(_ name: String) -> String? { values[name] }

  func integer(_ name: String) -> Int64? { values[name].flatMap { Int64($0) } }

  /// Keys and how many of them have an expiry, per database that has any.
  var keyspace: [Int: KeyCount] {
    var result: [Int: KeyCount] = [:]
    for (name, value) in values where name.hasPrefix("db") {
      guard let index = Int(name.dropFirst(2)) else { continue }
      var count = KeyCount()
      for field in value.split(separator: ",") {
        let parts = field.split(separator: "=", maxSplits: 1)
        guard parts.count == 2, let number = Int64(parts[1]) else { continue }
        if parts[0] == "keys" { count.keys = number }
        if parts[0] == "expires" { count.expiring = number }
      }
      result[index] = count
    }
    return result
  }
}

struct KeyCount: Sendable, Equatable, Codable, CustomStringConvertible {
  var keys: Int64 = 0
  var expiring: Int64 = 0
  /// Keys that time alone doesn't take away.
  var lasting: Int64 { keys - expiring }

  var description: String { "\(keys) keys, \(expiring) of them expiring" }
}

/// An engine and its version, `7.0.15` or `valkey 8.0.1`.
struct EngineVersion: Sendable, Equatable, CustomStringConvertible {
  enum Engine: String, Sendable { case redis, valkey }

  var engine: Engine
  var major: Int
  var minor: Int
  var patch: Int

  /// - Returns: `nil` unless `text` is as ``description`` prints it.
  init?(_ text: String) {
    let words = text.split(separator: " ")
    guard let number = words.last, words.count <= 2 else { return nil }
    engine = .redis
    if words.count == 2 {
      guard let named = Engine(rawValue: String(words[0])) else { return nil }
      engine = named
    }
    let parts = number.split(separator: ".").map { Int($0) }
    guard parts.count == 3, let major = parts[0], let minor = parts[1], let patch = parts[2] else { return nil }
    (self.major, self.minor, self.patch) = (major, minor, patch)
  }

  init?(_ info: Info) {
    if let version = info["valkey_version"] {
      self.init("valkey \(version)")
    } else if let version = info["redis_version"] {
      self.init(version)
    } else {
      return nil
    }
  }

  var description: String { (engine == .valkey ? "valkey " : "") + "\(major).\(minor).\(patch)" }

  /// Not older than `major.minor`.
  func isAtLeast(_ major: Int, _ minor: Int) -> Bool { (self.major, self.minor) >= (major, minor) }

  /// Whether this engine reads what `captured` wrote: its RDB version is not newer, and it is of the same family.
  ///
  /// Source: Valkey's migration guide; RDB versions up to 11 (Redis 7.2) are common to both, later ones are not.
  func reads(_ captured: EngineVersion) -> Bool {
    guard captured.isAtLeast(6, 2) else { return false }
    switch (captured.engine, engine) {
    case (.redis, .valkey): return (captured.major, captured.minor) <= (7, 2)
    case (.valkey, .redis): return false
    default: return (major, minor) >= (captured.major, captured.minor)
    }
  }
}

/// The settings that a restore must know, read with `CONFIG GET` one by one from a list without secrets.
struct ServerSettings: Sendable, Equatable {
  static let names = [
    "dir", "dbfilename", "appendonly", "appendfilename", "appenddirname", "databases", "save", "maxmemory",
    "maxmemory-policy", "aclfile", "rdbchecksum",
  ]

  var values: [String: String] = [:]

  var databaseFile: String { plainName("dbfilename") ?? "dump.rdb" }
  var appendDirectory: String { plainName("appenddirname") ?? "appendonlydir" }
  var appendFile: String { plainName("appendfilename") ?? "appendonly.aof" }
  var isAppendOnly: Bool { values["appendonly"] == "yes" }
  var databases: Int { values["databases"].flatMap { Int($0) }.map { min(max($0, 1), 1_000_000) } ?? 16 }

  /// A setting that names a file in the data directory: never a path, wherever it was read.
  private func plainName(_ name: String) -> String? {
    guard let value = values[name], !value.isEmpty, value != ".", value != "..", !value.contains("/") else {
      return nil
    }
    return value
  }

  /// What a configuration file says about ``names``; the last line wins, as in the server. Includes are not followed.
  mutating func override(withConfiguration text: String) {
    for line in text.split(whereSeparator: \.isNewline) {
      guard let words = CommandLine.words(String(line)), words.count >= 2, Self.names.contains(words[0].lowercased())
      else { continue }
      values[words[0].lowercased()] = words.dropFirst().joined(separator: " ")
    }
  }
}
