import Core
import Governance
import IO

/// The keys that this machine signs evidence with: one of today, and one that outlasts quantum computers.
///
/// In `keys/` of the state directory, for their owner alone; made at first use. What others verify with is in `log/keys`, one
/// line for every key there ever was; the name in them is the log's origin. Every call blocks.
struct EvidenceKeyring: Sendable {
  private let host: Machine

  init(host: Machine) { self.host = host }

  struct Own: Sendable {
    var origin: String
    var classic: EvidenceSigner
    var signers: [any NoteSigner]
    /// All there ever were.
    var keys: [NoteKey]
  }

  private var lock: LogDirectory { LogDirectory(host.path("keys")) }
  private var listPath: String { host.path("log/keys") }

  private enum Kind: String, CaseIterable {
    case classic = "evidence"
    case lattice = "evidence-mldsa65"
  }

  private func path(_ kind: Kind, next: Bool = false) -> String {
    host.path("keys/\(next ? "next-" : "")\(kind.rawValue).key")
  }

  /// Every key of this machine's log; empty while it has none. Makes nothing.
  func known() throws -> [NoteKey] {
    guard try Files.isThere(listPath) else { return [] }
    return try NoteKey.list(String(decoding: try Files.read(listPath, limitBytes: 1 << 18), as: UTF8.self))
  }

  /// The Ed25519 public key, in PEM; `nil` while there is none. Makes nothing.
  func classicPublicKey() throws -> EvidencePublicKey? {
    guard try Files.isThere(path(.classic)) else { return nil }
    return try EvidenceSigner(privateKeyFile: Secret(try Files.read(path(.classic), limitBytes: 1 << 16))).publicKey
  }

  /// The keys; made if there are none yet, by one process of all.
  func own() throws -> Own {
    try alone {
      let classic = try classicSigner()
      let known = try known()
      let origin =
        known.first?.name ?? "\(Self.hostPart(host.name))/salvor/\(classic.publicKey.id.prefix(8))"
      let latticePath = path(.lattice)
      let lattice: LatticeNoteSigner
      if try Files.isThere(latticePath) {
        lattice = try LatticeNoteSigner(
          name: origin, privateKeyFile: Secret(try Files.read(latticePath, limitBytes: 1 << 16)))
      } else {
        lattice = try LatticeNoteSigner.create(name: origin, randomness: host.randomness)
        try Files.replace(latticePath, with: lattice.privateKeyFile.withBytes { Array($0) }, mode: 0o600)
      }
      let signers: [any NoteSigner] = [try ClassicNoteSigner(name: origin, classic), lattice]
      let keys = try add(signers.map(\.key), to: known)
      return Own(origin: origin, classic: classic, signers: signers, keys: keys)
    }
  }

  private func classicSigner() throws -> EvidenceSigner {
    if try Files.isThere(path(.classic)) {
      return try EvidenceSigner(privateKeyFile: Secret(try Files.read(path(.classic), limitBytes: 1 << 16)))
    }
    let signer = try EvidenceSigner.create(randomness: host.randomness)
    try Files.replace(host.path("keys/evidence.pub"), with: Array(signer.publicKey.text.utf8), mode: 0o644)
    try Files.replace(path(.classic), with: signer.privateKeyFile.withBytes { Array($0) }, mode: 0o600)
    return signer
  }

  private func add(_ keys: [NoteKey], to known: [NoteKey]) throws -> [NoteKey] {
    let all = known + keys.filter { !known.contains($0) }
    if all != known {
      try Files.createDirectory(Files.parent(of: listPath), mode: 0o700)
      try Files.replace(listPath, with: Array(all.map { $0.text + "\n" }.joined().utf8), mode: 0o644)
    }
    return all
  }

  // MARK: Changing keys

  /// The keys that are to follow; the same after a crash.
  func prepareNext() throws -> Own {
    let own = try own()
    return try alone {
      var signers: [any NoteSigner] = []
      var classic = own.classic
      let next = path(.classic, next: true)
      if try !Files.isThere(next) {
        let fresh = try EvidenceSigner.create(randomness: host.randomness)
        try Files.replace(next, with: fresh.privateKeyFile.withBytes { Array($0) }, mode: 0o600)
      }
      classic = try EvidenceSigner(privateKeyFile: Secret(try Files.read(next, limitBytes: 1 << 16)))
      signers.append(try ClassicNoteSigner(name: own.origin, classic))
      let nextLattice = path(.lattice, next: true)
      if try !Files.isThere(nextLattice) {
        let fresh = try LatticeNoteSigner.create(name: own.origin, randomness: host.randomness)
        try Files.replace(nextLattice, with: fresh.privateKeyFile.withBytes { Array($0) }, mode: 0o600)
      }
      signers.append(
        try LatticeNoteSigner(
          name: own.origin, privateKeyFile: Secret(try Files.read(nextLattice, limitBytes: 1 << 16))))
      return Own(origin: own.origin, classic: classic, signers: signers, keys: signers.map(\.key))
    }
  }

  /// Others may verify with them from now on.
  func announce(_ next: Own) throws { try alone { _ = try add(next.keys, to: try known()) } }

  /// They take the place of those there were, which are gone then. The old public key stays, under its id.
  func adopt(_ next: Own) throws {
    try alone {
      if let old = try classicPublicKey(), old != next.classic.publicKey {
        try Files.replace(host.path("keys/evidence-\(old.id).pub"), with: Array(old.text.utf8), mode: 0o644)
      }
      for kind in [Kind.lattice, .classic] where try Files.isThere(path(kind, next: true)) {
        try Files.rename(path(kind, next: true), to: path(kind))
      }
      try Files.synchronizeDirectory(host.path("keys"))
      try Files.replace(
        host.path("keys/evidence.pub"), with: Array(next.classic.publicKey.text.utf8), mode: 0o644)
    }
  }

  private func alone<T>(_ body: () throws -> T) throws -> T {
    var result: Result<T, any Error>?
    _ = try lock.alone { () throws(LogError) in result = Result(catching: body) }
    guard let result else { throw LogError.badKey("the keys' directory could not be locked") }
    return try result.get()
  }

  /// Such as `db1.example.com`: what a name of a key may have of a host's.
  static func hostPart(_ name: String) -> String {
    let part = String(
      name.lowercased().unicodeScalars.filter {
        ("a"..."z").contains($0) || ("0"..."9").contains($0) || $0 == "." || $0 == "-"
      }.prefix(100).map(Character.init))
    return part.isEmpty ? "host" : part
  }
}
