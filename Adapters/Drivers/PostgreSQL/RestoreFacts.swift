import Core
import DriverKit

/// What a capture says for its restore, by the driver or by hand; the strings of ``CaptureResult/facts``.
struct RestoreFacts: Equatable, Sendable {
  var start: String
  var stop: String
  var mark: String
  var timeline: UInt32
  var systemIdentifier: String
  var segmentBytes: UInt64
  var major: Int
  /// Such as `PG_15_202209061`.
  var tablespaceVersion: String
  var tablespaces: [DataDirectory.Tablespace]
  var dataDirectory: String
  var hasChecksums: Bool
  /// `shared_preload_libraries`.
  var preloaded: String
  /// Every how many bytes files of relations are cut.
  var partBytes = RestoreFacts.formerPartBytes
  /// Of the log from start to stop, in hexadecimal; `nil` in older snapshots.
  var logDigest: String?
  /// Whether all pages are of one primary, on one timeline: what readers note in pages without a record is each server's own.
  var isOfOneServer = true
  /// `nil` where nothing was digested, and in older snapshots, whose digests cover every table.
  var coverage: DigestCoverage?

  /// Before snapshots said it.
  static let formerPartBytes = 128 << 10

  var encoded: [String: String] {
    var result = [
      "startLSN": start, "stopLSN": stop, "markLSN": mark, "timeline": String(timeline),
      "systemIdentifier": systemIdentifier, "walSegmentBytes": String(segmentBytes), "major": String(major),
      "tablespaceVersion": tablespaceVersion, "dataDirectory": dataDirectory, "checksums": hasChecksums ? "on" : "off",
      "sharedPreloadLibraries": preloaded, "partBytes": String(partBytes),
    ]
    if let logDigest { result["logDigest"] = logDigest }
    if !isOfOneServer { result["hints"] = "mixed" }
    for space in tablespaces { result["tablespace.\(space.oid)"] = space.location }
    for (database, horizon) in coverage?.horizons ?? [:] { result["digestHorizon.\(database)"] = String(horizon) }
    for part in coverage?.lacking ?? [] { result["digestLacks.\(part)"] = "" }
    return result
  }
}

extension RestoreFacts {
  /// - Throws: ``DriverError/corrupt(_:)`` for facts no capture of this driver wrote.
  init(_ facts: [String: String]) throws(DriverError) {
    func required(_ name: String) throws(DriverError) -> String {
      guard let value = facts[name] else { throw .corrupt("the snapshot's facts lack '\(name)'") }
      return value
    }
    start = try required("startLSN")
    stop = try required("stopLSN")
    mark = try required("markLSN")
    systemIdentifier = try required("systemIdentifier")
    tablespaceVersion = try required("tablespaceVersion")
    dataDirectory = try required("dataDirectory")
    hasChecksums = try required("checksums") == "on"
    preloaded = facts["sharedPreloadLibraries"] ?? ""
    logDigest = facts["logDigest"]
    isOfOneServer = facts["hints"] != "mixed"
    if let part = facts["partBytes"] {
      guard let bytes = Int(part), bytes >= DataPage.bytes, bytes <= 1 << 23, bytes % DataPage.bytes == 0 else {
        throw .corrupt("the snapshot's facts make no sense")
      }
      partBytes = bytes
    }
    guard let timeline = UInt32(try required("timeline")), let bytes = UInt64(try required("walSegmentBytes")),
      let major = Int(try required("major")), LogSequenceNumber(mark) != nil, LogGeometry(segmentBytes: bytes) != nil
    else { throw .corrupt("the snapshot's facts make no sense") }
    (self.timeline, segmentBytes, self.major) = (timeline, bytes, major)
    // It becomes part of a path.
    guard tablespaceVersion.utf8.allSatisfy({ $0 == 95 || (48...57).contains($0) || (65...90).contains($0) }) else {
      throw .corrupt("the snapshot's facts make no sense")
    }
    var spaces: [DataDirectory.Tablespace] = []
    for (name, location) in facts where name.hasPrefix("tablespace.") {
      guard let oid = UInt32(name.dropFirst("tablespace.".count)), location.hasPrefix("/"), !location.contains("\n"),
        !location.split(separator: "/").contains("..")
      else { throw .corrupt("the snapshot's facts name a tablespace that can't be: '\(name)'") }
      spaces.append(DataDirectory.Tablespace(oid: oid, location: location))
    }
    tablespaces = spaces.sorted { $0.oid < $1.oid }
    var horizons: [String: UInt64] = [:]
    for (name, value) in facts where name.hasPrefix("digestHorizon.") {
      guard let horizon = UInt64(value) else { throw .corrupt("the snapshot's facts make no sense: '\(name)'") }
      horizons[String(name.dropFirst("digestHorizon.".count))] = horizon
    }
    if !horizons.isEmpty {
      let lacking = facts.keys.filter { $0.hasPrefix("digestLacks.") }.map {
        String($0.dropFirst("digestLacks.".count))
      }
      coverage = DigestCoverage(horizons: horizons, lacking: Set(lacking))
    }
  }
}
