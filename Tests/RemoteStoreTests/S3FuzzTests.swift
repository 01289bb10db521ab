import Core
import Foundation
import IO
import Testing
import Vault

@testable import ObjectStoreS3

/// A bucket's answers, fuzzed: `SALVOR_FUZZ` (rounds, 1) from `SALVOR_SEED` on.
@Suite("Fuzzing of S3 listings") struct S3FuzzTests {
  private static func number(_ name: String) -> UInt64? {
    ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) }
  }

  private static let id = Digest.of("id").hex

  /// Valid, odd, and hostile.
  private static let corpus: [[UInt8]] = [
    """
    <?xml version="1.0" encoding="UTF-8"?>
    <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>p/data/</Prefix>\
    <EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>1/2=&amp;</NextContinuationToken>\
    <Contents><Key>p%2Fdata%2F\(id.prefix(2))%2F\(id)</Key><ETag>&quot;e&#34;</ETag><Size>12</Size></Contents>\
    <Contents><Key>p/data/foreign</Key><Size>9223372036854775807</Size></Contents><CommonPrefixes/></ListBucketResult>
    """,
    "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
    "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken/></ListBucketResult>",
    "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><x>&b;</x>", "<?xml", "<?xml?", "<a b='>'/>", "<a", "<",
    "&",
    "<a>&#x110000;&#xd800;</a>", "<a>&#99999999999;</a>", "<a>&</a>", "\u{feff}<a/>",
    String(repeating: "<a>", count: 100_000), "<a>" + String(repeating: "<b/>", count: 300_000) + "</a>",
    "<a>" + String(repeating: "&amp;", count: 200_000) + "</a>", "<a " + String(repeating: "x='", count: 200_000),
  ].map { Array($0.utf8) }

  private static let pieces = [
    "<", ">", "</", "/>", "&amp;", "&#65;", "Contents", "Key", "Size", "12", "-1", "'", "\"", "<?", "?>", "%2F", id,
  ]

  private static func changed(_ bytes: [UInt8], _ chance: SeededRandomness) -> [UInt8] {
    var bytes = bytes
    for _ in 0...chance.below(3) {
      guard !bytes.isEmpty else { return chance.bytes(9) }
      let at = chance.below(bytes.count)
      switch chance.below(5) {
      case 0: bytes[at] ^= 1 << UInt8(chance.below(8))
      case 1: bytes.removeSubrange(at..<min(bytes.count, at + 1 + chance.below(30)))
      case 2: bytes.insert(contentsOf: pieces[chance.below(pieces.count)].utf8, at: at)
      case 3: bytes.insert(contentsOf: bytes[at..<min(bytes.count, at + chance.below(80))], at: at)
      default: bytes.removeLast(bytes.count - at)
      }
    }
    return bytes
  }

  @Test(.timeLimit(.minutes(30))) func `any answer is a page or an error, and soon`() throws {
    let keys = ["AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"]
    let opened = try S3ObjectStoreFactory(environment: keys, time: SystemTime(), pool: .shared, settings: S3Settings())
      .open("http://127.0.0.1:9/bucket/p")
    let store = try #require(opened as? S3ObjectStore)
    let page = try store.page(Self.corpus[0], .data, "p/data/")
    #expect(page.objects.map(\.sizeBytes) == [12] && page.next == "1/2=&")
    let seed = Self.number("SALVOR_SEED") ?? 1
    let chance = SeededRandomness(seed: seed)
    var (taken, refused) = (0, 0)
    func look(_ input: [UInt8], _ place: String) {
      let start = ContinuousClock.now
      do throws(StoreError) {
        let page = try store.page(input, .data, "p/data/")
        #expect(page.objects.allSatisfy { $0.sizeBytes >= 0 && $0.name.id != nil })
        taken += 1
      } catch { refused += 1 }
      let time = ContinuousClock.now - start
      // Not optimised here, and tests beside it: the most elements there can be take a second or more.
      if time > .seconds(20) { Issue.record("\(place) took \(time)") }
    }
    for (number, input) in Self.corpus.enumerated() { look(input, "corpus \(number)") }
    let short = Self.corpus.filter { $0.count < 2000 }
    for round in 0..<(5000 * (Self.number("SALVOR_FUZZ") ?? 1)) {
      look(Self.changed(short[chance.below(short.count)], chance), "round \(round), SALVOR_SEED=\(seed)")
    }
    #expect(taken > 20 && refused > 1000, "\(taken) taken, \(refused) refused")
  }
}
