import Core

/// A payload and who signed it.
///
/// Source: the DSSE protocol, version 1.
package struct Envelope: Sendable, Equatable {
  package struct Signature: Sendable, Equatable {
    package var keyID: String
    package var bytes: [UInt8]
  }

  package var payloadType: String
  package var payload: [UInt8]
  package var signatures: [Signature]

  /// What is signed: the type and the payload, each behind its length, so that neither can pass for the other.
  static func message(_ type: String, _ payload: [UInt8]) -> [UInt8] {
    Array("DSSEv1 \(type.utf8.count) \(type) \(payload.count) ".utf8) + payload
  }

  package init(payloadType: String, payload: [UInt8], signatures: [Signature]) {
    (self.payloadType, self.payload, self.signatures) = (payloadType, payload, signatures)
  }

  package init(_ payload: [UInt8], type: String, signedBy signers: [any NoteSigner]) throws(LogError) {
    (payloadType, self.payload, signatures) = (type, payload, [])
    for signer in signers {
      signatures.append(
        Signature(keyID: signer.key.label, bytes: try signer.sign(Self.message(type, payload))))
    }
  }

  package func isSigned(by key: NoteKey) -> Bool {
    let message = Self.message(payloadType, payload)
    return signatures.contains { $0.keyID == key.label && key.accepts($0.bytes, for: message) }
  }

  var json: JSONValue {
    [
      "payload": .string(Base64.encode(payload)), "payloadType": .string(payloadType),
      "signatures": .array(
        signatures.map { ["keyid": .string($0.keyID), "sig": .string(Base64.encode($0.bytes))] }),
    ]
  }

  init(_ value: JSONValue?) throws(LogError) {
    guard let members = value?.object, members.count == 3, let type = members["payloadType"]?.string,
      let payload = members["payload"]?.string.flatMap(Base64.decode), let list = members["signatures"]?.array,
      list.count <= SignedNote.signatureLimit
    else { throw .badBundle("there is no DSSE envelope in it") }
    var signatures: [Signature] = []
    for element in list {
      guard element.object?.count == 2, let id = element["keyid"]?.string,
        let bytes = element["sig"]?.string.flatMap(Base64.decode)
      else { throw .badBundle("a signature of the envelope has no proper shape") }
      signatures.append(Signature(keyID: id, bytes: bytes))
    }
    self.init(payloadType: type, payload: payload, signatures: signatures)
  }
}
