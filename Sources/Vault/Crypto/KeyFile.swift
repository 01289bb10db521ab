import Core

/// One way into a repository: the master key, wrapped by a password.
///
/// Source: restic, design document, "Keys, Encryption and MAC".
struct KeyFile: Sendable {
  var created: String
  var username: String
  var hostname: String
  var parameters: ScryptParameters
  var salt: [UInt8]
  /// The sealed master key.
  var data: [UInt8]

  /// Wraps `master`. Blocks for as long as scrypt takes.
  static func wrap(
    _ master: MasterKey, password: Secret, parameters: ScryptParameters, owner: Owner, now: Timestamp,
    randomness: any Randomness
  ) throws(VaultError) -> KeyFile {
    let salt = randomness.bytes(64)
    let wrapping = try scrypt(password, salt: salt, parameters)
    let cipher = try Cipher(wrapping)
    var json = master.json()
    defer { wipe(&json) }
    let data = try json.withRawBytes { (raw) throws(VaultError) in try cipher.seal(raw, iv: randomness.bytes(16)) }
    return KeyFile(
      created: now.description, username: owner.username, hostname: owner.hostname, parameters: parameters, salt: salt,
      data: data)
  }

  /// Blocks for as long as scrypt takes.
  ///
  /// - Returns: `nil` if the password is not this key's.
  /// - Throws: ``VaultError/keyDamaged(_:_:)`` if the file can't be used with any password.
  func unwrap(_ password: Secret, id: Digest) throws(VaultError) -> MasterKey? {
    guard parameters.isAffordable else { throw .keyDamaged(id, "its scrypt parameters are out of bounds") }
    let cipher = try Cipher(try scrypt(password, salt: salt, parameters))
    guard var json = try data.withRawBytes({ (raw) throws(VaultError) in try cipher.open(raw) }) else { return nil }
    defer { wipe(&json) }
    do throws(JSONFault) { return try MasterKey(json: json) } catch { throw .keyDamaged(id, error.reason) }
  }

  func json() -> [UInt8] {
    var json = JSONOutput()
    json.raw(#"{"created":"#)
    json.string(created)
    json.raw(#","username":"#)
    json.string(username)
    json.raw(#","hostname":"#)
    json.string(hostname)
    json.raw(#","kdf":"scrypt","N":"#)
    json.number(parameters.n)
    json.raw(#","r":"#)
    json.number(parameters.r)
    json.raw(#","p":"#)
    json.number(parameters.p)
    json.raw(#","salt":""#)
    salt.withUnsafeBytes { json.base64($0) }
    json.raw(#"","data":""#)
    data.withUnsafeBytes { json.base64($0) }
    json.raw(#""}"#)
    return json.bytes
  }
}

extension KeyFile {
  /// - Parameter id: For the error.
  init(json bytes: [UInt8], id: Digest) throws(VaultError) {
    var (created, username, hostname, kdf) = ("", "", "", "")
    var (n, r, p) = (0, 0, 0)
    var (salt, data): ([UInt8]?, [UInt8]?) = (nil, nil)
    do throws(JSONFault) {
      try JSONScanner.scan(bytes) { (scanner) throws(JSONFault) in
        try scanner.object { (key, scanner) throws(JSONFault) in
          if key == "created" {
            created = try scanner.string()
          } else if key == "username" {
            username = try scanner.string()
          } else if key == "hostname" {
            hostname = try scanner.string()
          } else if key == "kdf" {
            kdf = try scanner.string()
          } else if key == "N" {
            n = try scanner.count()
          } else if key == "r" {
            r = try scanner.count()
          } else if key == "p" {
            p = try scanner.count()
          } else if key == "salt" {
            salt = try scanner.base64()
          } else if key == "data" {
            data = try scanner.base64()
          } else {
            try scanner.skip()
          }
        }
      }
    } catch { throw .keyDamaged(id, error.reason) }
    guard kdf == "scrypt" else { throw .keyDamaged(id, "it is wrapped with something other than scrypt") }
    guard let salt, let data, salt.count >= 8, data.count > Cipher.overheadBytes else {
      throw .keyDamaged(id, "a field is missing")
    }
    self.init(
      created: created, username: username, hostname: hostname, parameters: .init(n: n, r: r, p: p), salt: salt,
      data: data)
  }
}
