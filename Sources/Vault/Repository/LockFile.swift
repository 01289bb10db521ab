import Core

/// A claim on a repository, as a file in `locks/`.
///
/// Source: restic, internal/restic/lock.go.
package struct LockFile: Hashable, Sendable {
  package var time: Timestamp
  package var isExclusive: Bool
  package var hostname: String
  package var username: String
  package var processID: Int
  package var userID: Int
  package var groupID: Int
  /// Of long-lasting work that can be interrupted: it ends soon after it sees that somebody waits for the repository.
  /// restic knows no such thing, and passes the field over.
  package var yields = false

  /// For people.
  package var owner: String {
    "process \(processID) of \(username) on \(hostname) since \(time.format(fractionDigits: 0))"
  }

  /// Nobody keeps it any more: older than 30 minutes, or its process on this host is gone.
  package func isStale(at now: Timestamp, seenBy owner: Owner) -> Bool {
    if now - time > LockTiming.stale { return true }
    return isOrphan(seenBy: owner)
  }

  /// Its process ran on this host and is gone.
  package func isOrphan(seenBy owner: Owner) -> Bool {
    hostname == owner.hostname && !owner.isAlive(processID)
  }

  func json() -> [UInt8] {
    var json = JSONOutput()
    json.raw(#"{"time":"#)
    json.string(time.description)
    json.raw(#","exclusive":"#)
    isExclusive ? json.raw("true") : json.raw("false")
    json.raw(#","hostname":"#)
    json.string(hostname)
    json.raw(#","username":"#)
    json.string(username)
    json.raw(#","pid":"#)
    json.number(processID)
    if userID != 0 {
      json.raw(#","uid":"#)
      json.number(userID)
    }
    if groupID != 0 {
      json.raw(#","gid":"#)
      json.number(groupID)
    }
    if yields { json.raw(#","yields":true"#) }
    json.byte("}")
    return json.bytes
  }
}

extension LockFile {
  init(json bytes: [UInt8], id: Digest) throws(VaultError) {
    self.init(
      time: Timestamp(nanoseconds: 0), isExclusive: true, hostname: "", username: "", processID: 0, userID: 0,
      groupID: 0)
    do throws(JSONFault) {
      var time: Timestamp?
      try JSONScanner.scan(bytes) { (scanner) throws(JSONFault) in
        try scanner.object { (key, scanner) throws(JSONFault) in
          if key == "time" {
            time = Timestamp(try scanner.string())
          } else if key == "exclusive" {
            isExclusive = try scanner.bool()
          } else if key == "hostname" {
            hostname = try scanner.string()
          } else if key == "username" {
            username = try scanner.string()
          } else if key == "pid" {
            processID = try scanner.count()
          } else if key == "uid" {
            userID = try scanner.count()
          } else if key == "gid" {
            groupID = try scanner.count()
          } else if key == "yields" {
            yields = try scanner.bool()
          } else {
            try scanner.skip()
          }
        }
      }
      guard let time else { throw JSONFault(offset: 0, reason: "it has no time") }
      self.time = time
    } catch { throw .lockDamaged(id, error.reason) }
  }
}

/// When locks are looked at again, renewed and given up.
enum LockTiming {
  /// Between writing a lock and looking whether someone else did the same.
  static let settle = Duration.milliseconds(200)
  /// How often a new lock is looked for before the store is given up.
  static let looks = 5
  static let refresh = Duration.seconds(300)
  static let stale = Duration.seconds(1800)
  /// How long work that yields is waited for, even by who would not wait otherwise.
  static let yielding = Duration.seconds(60)
  /// A lock that couldn't be renewed for this long may soon be taken for stale by others.
  static let giveUp = Duration.seconds(1500)
}
