import Core

/// What a repository says about itself.
package struct RepositoryConfig: Hashable, Sendable {
  /// 1 or 2; 2 knows compression.
  package let version: Int
  package let id: Digest
  /// Where content is cut depends on it; irreducible, so that every window has its own fingerprint.
  package let chunkerPolynomial: UInt64

  func json() -> [UInt8] {
    var json = JSONOutput()
    json.raw(#"{"version":"#)
    json.number(version)
    json.raw(#","id":"#)
    json.hex(id)
    json.raw(#","chunker_polynomial":""#)
    json.bytes.append(contentsOf: String(chunkerPolynomial, radix: 16).utf8)
    json.raw(#""}"#)
    return json.bytes
  }

  init(version: Int, id: Digest, chunkerPolynomial: UInt64) {
    (self.version, self.id, self.chunkerPolynomial) = (version, id, chunkerPolynomial)
  }

  init(json bytes: [UInt8]) throws(VaultError) {
    var (version, id, polynomial): (Int?, Digest?, UInt64?) = (nil, nil, nil)
    do throws(JSONFault) {
      try JSONScanner.scan(bytes) { (scanner) throws(JSONFault) in
        try scanner.object { (key, scanner) throws(JSONFault) in
          if key == "version" {
            version = try scanner.count()
          } else if key == "id" {
            id = try scanner.digest()
          } else if key == "chunker_polynomial" {
            polynomial = UInt64(try scanner.string(), radix: 16)
          } else {
            try scanner.skip()
          }
        }
      }
    } catch { throw .configDamaged(error.reason) }
    guard let version, let id, let polynomial else { throw .configDamaged("a field is missing") }
    guard version == 1 || version == 2 else { throw .unsupportedVersion(version) }
    guard IrreduciblePolynomial.isIrreducible(polynomial) else {
      throw .configDamaged("the chunker's polynomial is reducible")
    }
    self.init(version: version, id: id, chunkerPolynomial: polynomial)
  }
}

extension RepositoryConfig {
  /// What the file `config` holds.
  init(sealed: [UInt8], _ codec: Codec) throws(VaultError) {
    let json: [UInt8]
    do throws(CodecFault) { json = try codec.open(sealed) } catch { throw .configDamaged(error.reason) }
    try self.init(json: json)
  }
}
