import Core
import DriverKit

/// What a capture says for its restore, by the driver or by hand; the strings of ``CaptureResult/facts``.
struct RestoreFacts: Equatable, Sendable {
  var version: String
  /// Where the copy stands in InnoDB's log.
  var lsn: String
  var dataDirectory: String
  /// ``ServerFacts/replayed``, as they were.
  var variables: [String: String]
  /// Plugins without which statements about users can't be replayed.
  var authentication: [String] = []
  /// What a later copy can begin with; `nil` in older snapshots, and where it can't.
  var origin: CopyOrigin?
  /// Why none can lean on this one, if that is known.
  var obstacle: String?
  /// Every how many bytes InnoDB's files are cut.
  var partBytes = RestoreFacts.formerPartBytes
  /// `nil` for a copy that was outside the cut.
  var replay: Replay?

  /// Before snapshots said it; a multiple of the longest page.
  static let formerPartBytes = 128 << 10

  struct Replay: Equatable, Sendable {
    /// Of the binary log, in their order.
    var files: [String]
    var start: String
    var startGTID: String
    var mark: String
    var markGTID: String
    var replicated: String
    /// Where the binary log was kept in the data directory.
    var logBaseName: String?
    /// How many events there were at the mark; what they are is in the tree.
    var events: Int?
  }

  var encoded: [String: String] {
    var result = ["version": version, "lsn": lsn, "dataDirectory": dataDirectory]
    for (name, value) in variables { result["variable.\(name)"] = value }
    if !authentication.isEmpty { result["authentication"] = authentication.joined(separator: " ") }
    result["partBytes"] = String(partBytes)
    result["noIncrement"] = obstacle
    result.merge(origin?.encoded ?? [:]) { first, _ in first }
    guard let replay else { return result }
    result["events"] = replay.events.map { String($0) }
    result["binlogFiles"] = replay.files.joined(separator: " ")
    (result["start"], result["startGTID"]) = (replay.start, replay.startGTID)
    (result["mark"], result["markGTID"]) = (replay.mark, replay.markGTID)
    result["replicatedGTID"] = replay.replicated
    result["logBaseName"] = replay.logBaseName
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
    version = try required("version")
    lsn = try required("lsn")
    dataDirectory = try required("dataDirectory")
    variables = [:]
    for name in ServerFacts.replayed {
      guard let value = facts["variable.\(name)"] else { continue }
      // They become arguments.
      guard value.utf8.count < 100, value.utf8.allSatisfy({ $0 > 32 && $0 < 127 }) else {
        throw .corrupt("the snapshot's facts have '\(value)' for \(name)")
      }
      variables[name] = value
    }
    authentication = (facts["authentication"] ?? "").split(separator: " ").map(String.init)
    guard authentication.allSatisfy(ServerFacts.isPlugin) else {
      throw .corrupt("the snapshot's facts have '\(facts["authentication"] ?? "")' for authentication")
    }
    origin = CopyOrigin(facts)
    obstacle = facts["noIncrement"]
    if let part = facts["partBytes"] {
      guard let bytes = Int(part), bytes >= 1 << 12, bytes <= 1 << 23, bytes & (bytes - 1) == 0 else {
        throw .corrupt("the snapshot's facts make no sense")
      }
      partBytes = bytes
    }
    guard let list = facts["binlogFiles"] else {
      replay = nil
      return
    }
    let files = list.split(separator: " ").map(String.init)
    let mark = try required("mark")
    let gtids = [try required("startGTID"), try required("markGTID"), try required("replicatedGTID")]
    let base = facts["logBaseName"]
    guard !files.isEmpty, files.count <= 999_999, files.allSatisfy(BinlogPosition.isName),
      Set(files).count == files.count,
      BinlogPosition(mark)?.file == files.last, gtids.allSatisfy({ GTIDList($0) != nil }),
      base.map(BinlogPosition.isName) ?? true
    else { throw .corrupt("the snapshot's facts make no sense") }
    replay = Replay(
      files: files, start: try required("start"), startGTID: gtids[0], mark: mark, markGTID: gtids[1],
      replicated: gtids[2], logBaseName: base, events: facts["events"].flatMap { Int($0) })
  }
}

/// What a restore beside came to; kept in the workspace.
struct RestoreOutcome: Codable, Sendable {
  var state: RestoredState
  var digest: ContentDigest?
}
