import Core

/// A repository's password, sealed to one recipient; what lies below `salvor/escrow/` beside the repository.
///
/// Source: docs/formats/escrow.md.
struct EscrowFile: Hashable, Sendable {
  static let limitBytes = 16_384
  static let limitLabelBytes = 200
  static let limitPasswordBytes = 4096
  /// X-Wing's ciphertext: 1088 bytes of ML-KEM-768, 32 of X25519.
  private static let encapsulatedBytes = 1120
  private static let version = 1

  var repository: Digest
  /// The key file the password opens: gone, the escrow is of no use.
  var key: Digest
  /// SHA-256 of the recipient's public key.
  var recipient: Digest
  /// For people; anyone who reads the store reads it.
  var label: String
  var created: String
  var encapsulated: [UInt8] = []
  var sealed: [UInt8] = []

  init(repository: Digest, key: Digest, recipient: Digest, label: String, created: String) {
    (self.repository, self.key, self.recipient) = (repository, key, recipient)
    (self.label, self.created) = (label, created)
  }

  /// Everything but the sealed part, which authenticates it.
  var header: [UInt8] {
    var json = JSONOutput()
    writeHeader(&json)
    return json.bytes
  }

  private func writeHeader(_ json: inout JSONOutput) {
    json.raw(#"{"version":"#)
    json.number(Self.version)
    json.raw(#","repository":"#)
    json.hex(repository)
    json.raw(#","key":"#)
    json.hex(key)
    json.raw(#","recipient":"#)
    json.hex(recipient)
    json.raw(#","label":"#)
    json.string(label)
    json.raw(#","created":"#)
    json.string(created)
  }

  func json() -> [UInt8] {
    var json = JSONOutput()
    writeHeader(&json)
    json.raw(#","encapsulated":""#)
    encapsulated.withUnsafeBytes { json.base64($0) }
    json.raw(#"","sealed":""#)
    sealed.withUnsafeBytes { json.base64($0) }
    json.raw(#""}"#)
    return json.bytes
  }

  /// - Parameter id: The file's name, which is the SHA-256 of its content.
  init(json bytes: [UInt8], id: Digest) throws(VaultError) {
    guard bytes.count <= Self.limitBytes else { throw .escrowDamaged(id, "it has \(bytes.count) bytes") }
    guard Digest.of(bytes) == id else { throw .escrowDamaged(id, "its content has another hash") }
    var (version, repository, key, recipient): (Int?, Digest?, Digest?, Digest?) = (nil, nil, nil, nil)
    var (label, created): (String?, String?) = (nil, nil)
    var (encapsulated, sealed): ([UInt8]?, [UInt8]?) = (nil, nil)
    do throws(JSONFault) {
      try JSONScanner.scan(bytes) { (scanner) throws(JSONFault) in
        try scanner.object { (name, scanner) throws(JSONFault) in
          if name == "version" {
            version = try scanner.count()
          } else if name == "repository" {
            repository = try scanner.digest()
          } else if name == "key" {
            key = try scanner.digest()
          } else if name == "recipient" {
            recipient = try scanner.digest()
          } else if name == "label" {
            label = try scanner.string()
          } else if name == "created" {
            created = try scanner.string()
          } else if name == "encapsulated" {
            encapsulated = try scanner.base64()
          } else if name == "sealed" {
            sealed = try scanner.base64()
          } else {
            try scanner.skip()
          }
        }
      }
    } catch { throw .escrowDamaged(id, error.reason) }
    guard version == Self.version else { throw .escrowDamaged(id, "its version is not \(Self.version)") }
    guard let repository, let key, let recipient, let label, let created, let encapsulated, let sealed else {
      throw .escrowDamaged(id, "a field is missing")
    }
    guard label.utf8.count <= Self.limitLabelBytes, created.utf8.count <= 64,
      encapsulated.count == Self.encapsulatedBytes, (16...Self.limitPasswordBytes + 256).contains(sealed.count)
    else { throw .escrowDamaged(id, "a field has a length it can't have") }
    self.init(repository: repository, key: key, recipient: recipient, label: label, created: created)
    (self.encapsulated, self.sealed) = (encapsulated, sealed)
  }
}
