import Core
import Testing

@testable import Governance

/// The keys of a log for tests.
struct LogKeys {
  let classic: EvidenceSigner
  let signers: [any NoteSigner]
  var keys: [NoteKey] { signers.map(\.key) }

  init(_ origin: String, seed: UInt64 = 7, isClassic: Bool = false) throws {
    let chance = SeededRandomness(seed: seed)
    classic = try EvidenceSigner.create(randomness: chance)
    let lattice = try LatticeNoteSigner.create(name: origin, randomness: chance)
    let first = try ClassicNoteSigner(name: origin, classic)
    signers = isClassic ? [first] : [first, lattice]
  }
}

@Suite("Signed notes") struct NoteTests {
  let origin = "bank.example/salvor/0011aabb"

  @Test func `the specification's example verifies, and is written the same`() throws {
    let key = try NoteKey(text: "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
    let text = "This is an example message.\n"
    let bytes = Array(
      "\(text)\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
        .utf8)
    let note = try SignedNote(bytes)
    #expect(note.text == text)
    #expect(try note.verified(by: [key]) == [key])
    #expect(note.encoded == bytes)
    #expect(key.text == "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
  }

  @Test func `a witness's example of the specification has the shape that is written`() throws {
    let keys = try LogKeys(origin)
    let witness = try WitnessSigner(
      name: "witness.example/w1", keys.classic, at: Timestamp(seconds: 1_679_315_147))
    let head = TreeHead(origin: origin, size: 0, root: MerkleTree.empty)
    let signature = try witness.signature(of: head.text)
    #expect(signature.bytes.count == 72)
    #expect(Array(signature.bytes[..<8]) == [0, 0, 0, 0, 0x64, 0x18, 0x50, 0xcb])
    #expect(witness.key.accepts(signature.bytes, for: head.text))
    var later = signature.bytes
    later[7] += 1
    #expect(!witness.key.accepts(later, for: head.text), "the time is signed too")
    #expect(try NoteKey(text: witness.key.text) == witness.key)
    // Not a signature of the log, though the key is the same.
    #expect(throws: LogError.self) {
      _ = try Checkpoint(SignedNote(text: head.text, signatures: [signature]).encoded, trusting: [witness.key])
    }
  }

  @Test func `keys come back from their text and their file, and from no other`() throws {
    let keys = try LogKeys(origin)
    for key in keys.keys {
      #expect(try NoteKey(text: key.text) == key)
      let text = Array(key.text.utf8)
      for place in stride(from: 0, to: text.count, by: 37) {
        var changed = text
        changed[place] ^= 1
        #expect((try? NoteKey(text: String(decoding: changed, as: UTF8.self))) != key)
      }
    }
    #expect(try NoteKey.list("# of the bank\n\(keys.keys.map(\.text).joined(separator: "\n"))\n") == keys.keys)
    let lattice = try LatticeNoteSigner.create(name: origin, randomness: SeededRandomness(seed: 3))
    #expect(try LatticeNoteSigner(name: origin, privateKeyFile: lattice.privateKeyFile).key == lattice.key)
    #expect("\(lattice)".contains("***"), "a signer prints no key")
    for text in ["", "a+b", "+00000000+AQ==", "a+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", "a b+c+d"] {
      #expect(throws: LogError.self) { _ = try NoteKey(text: text) }
    }
    for name in ["", "a b", "a+b", "a\u{2003}b", "a\u{1}"] {
      #expect(throws: LogError.self) { _ = try NoteKey(name: name, algorithm: .ed25519, bytes: keys.keys[0].bytes) }
    }
  }

  @Test func `every byte of a checkpoint changed, left out or cut off is refused`() throws {
    let keys = try LogKeys(origin)
    let head = TreeHead(origin: origin, size: 12, root: Digest.of("root"))
    let good = try Checkpoint(head, signedBy: keys.signers).encoded
    #expect(try Checkpoint(good, trusting: keys.keys).head == head)
    for place in good.indices {
      var changed = good
      changed[place] ^= place % 2 == 0 ? 1 : 0x20
      #expect(throws: LogError.self, "byte \(place)") { _ = try Checkpoint(changed, trusting: keys.keys) }
      guard place % 8 == 0 else { continue }
      #expect(throws: LogError.self, "the first \(place)") {
        _ = try Checkpoint(Array(good[..<place]), trusting: keys.keys)
      }
    }
    let other = try LogKeys(origin, seed: 8)
    #expect(throws: LogError.self) { _ = try Checkpoint(good, trusting: other.keys) }
    #expect(throws: LogError.self) { _ = try Checkpoint(good, trusting: []) }
    // One signature alone is not enough for who trusts both keys.
    for signer in keys.signers {
      let half = try Checkpoint(head, signedBy: [signer]).encoded
      #expect(throws: LogError.self) { _ = try Checkpoint(half, trusting: keys.keys) }
      #expect(try Checkpoint(half, trusting: [signer.key]).head == head)
    }
  }

  @Test func `what is no note, or no checkpoint, is refused`() throws {
    let keys = try LogKeys(origin)
    for text in ["", "\n", "\n\n", "a\n", "a\n\n", "a\n\n\u{2014} b\n", "a\n\n\u{2014} b c\n", "a\n\n- b AAAAAAA=\n"] {
      #expect(throws: LogError.self, "\(text)") { _ = try SignedNote(Array(text.utf8)) }
    }
    #expect(throws: LogError.self) { _ = try SignedNote([0xff, 10, 10, 1]) }
    #expect(throws: LogError.self) { _ = try SignedNote([UInt8](repeating: 10, count: SignedNote.limitBytes + 1)) }
    let root = Base64.encode(Digest.of("x").bytes)
    for text in [
      "\(origin)\n1\n", "\(origin)\n01\n\(root)\n", "\(origin)\n-1\n\(root)\n", "\(origin)\n+1\n\(root)\n",
      "\(origin)\n0\n\(root)\n", "\(origin)\n1\n\(root)\nmore\n", "\n1\n\(root)\n",
      "\(origin)\n1\n\(root.dropLast())\n",
      "\(origin)\n99999999999999999999\n\(root)\n",
    ] {
      let signed = SignedNote(text: text, signatures: [try keys.signers[0].signature(of: text)]).encoded
      #expect(throws: LogError.self, "\(text)") { _ = try Checkpoint(signed, trusting: [keys.signers[0].key]) }
    }
  }
}
