// The official SDK, unmodified, behind a line protocol: one JSON call per line in, one JSON answer per line out.
// It keeps its state between calls, as an application does. Every call has a timeout: AuthFetch has none.
import {
  AuthFetch, HTTPSOverlayBroadcastFacilitator, HTTPSOverlayLookupFacilitator, LookupResolver, MasterCertificate, MerklePath, P2PKH, PrivateKey,
  ProtoWallet, PushDrop, StorageDownloader, TopicBroadcaster, Transaction, UnlockingScript, LockingScript, Utils
} from '@bsv/sdk'
import { createInterface } from 'node:readline'

const wallets = new Map()
const clients = new Map()

class Wallet extends ProtoWallet {
  certificates = []
  async listCertificates ({ certifiers, types }) {
    const certificates = this.certificates.filter(
      each => (certifiers.length === 0 || certifiers.includes(each.certifier)) && types.includes(each.type))
    return { totalCertificates: certificates.length, certificates }
  }

  async proveCertificate ({ certificate, fieldsToReveal, verifier }) {
    const { masterKeyring } = this.certificates.find(each => each.serialNumber === certificate.serialNumber)
    const keyringForVerifier = await MasterCertificate.createKeyringForVerifier(
      this, certificate.certifier, verifier, certificate.fields, fieldsToReveal, masterKeyring, certificate.serialNumber)
    return { keyringForVerifier }
  }
}

function wallet (key) {
  if (!wallets.has(key)) wallets.set(key, new Wallet(PrivateKey.fromHex(key)))
  return wallets.get(key)
}

function resolver ({ trackers, hosts }) {
  return new LookupResolver({
    slapTrackers: trackers ?? [],
    hostOverrides: hosts,
    facilitator: new HTTPSOverlayLookupFacilitator(fetch, true)
  })
}

const outpoint = output => {
  const transaction = Transaction.fromBEEF(output.beef)
  const script = transaction.outputs[output.outputIndex].lockingScript
  return {
    txid: transaction.id('hex'),
    outputIndex: output.outputIndex,
    script: script.toHex(),
    fields: PushDrop.decode(script).fields.map(field => Utils.toHex(field)),
    context: output.context === undefined ? null : Utils.toHex(output.context)
  }
}

const operations = {
  async fetch ({ client, key, url, config }) {
    if (!clients.has(client)) clients.set(client, new AuthFetch(wallet(key)))
    const response = await clients.get(client).fetch(url, config)
    return { status: response.status, headers: Object.fromEntries(response.headers), body: await response.text() }
  },
  async certify ({ certifier, subject, type, fields }) {
    const holder = wallet(subject)
    const { publicKey } = await holder.getPublicKey({ identityKey: true })
    const made = await MasterCertificate.issueCertificateForSubject(
      wallet(certifier), publicKey, fields, type, async () => '00'.repeat(32) + '.0')
    holder.certificates.push(made)
    return { serialNumber: made.serialNumber }
  },
  async lookup ({ question, timeoutMs, ...where }) {
    const answer = await resolver(where).query(question, timeoutMs)
    return { type: answer.type, outputs: answer.outputs.map(outpoint) }
  },
  async broadcast ({ beef, topics, offChainValues, ...where }) {
    const transaction = Transaction.fromHexBEEF(beef)
    if (offChainValues !== undefined) transaction.metadata.OffChainValues = Utils.toArray(offChainValues, 'hex')
    const broadcaster = new TopicBroadcaster(topics, {
      resolver: resolver(where), facilitator: new HTTPSOverlayBroadcastFacilitator(fetch, true)
    })
    return await broadcaster.broadcast(transaction)
  },
  async download ({ url, ...where }) {
    const downloader = new StorageDownloader({ networkPreset: 'mainnet' })
    downloader.lookupResolver = resolver(where)
    const { data, mimeType } = await downloader.download(url)
    return { hex: Utils.toHex([...data]), mimeType }
  },
  async spend ({ key, beef, outputIndex, satoshis }) {
    // a P2PKH spend of an output, funded by nothing but that output
    const source = Transaction.fromHexBEEF(beef)
    const owner = PrivateKey.fromHex(key)
    const spending = new Transaction()
    spending.addInput({
      sourceTransaction: source, sourceOutputIndex: outputIndex, unlockingScriptTemplate: new P2PKH().unlock(owner)
    })
    spending.addOutput({ lockingScript: new P2PKH().lock(owner.toAddress()), satoshis })
    await spending.sign()
    return { beef: spending.toHexBEEF(), txid: spending.id('hex') }
  },
  async fund ({ key, scripts, satoshis }) {
    // a transaction with the given outputs whose parent has a merkle path of its own making
    const owner = PrivateKey.fromHex(key)
    const parent = new Transaction(1, [{
      sourceTXID: '11'.repeat(32), sourceOutputIndex: 0, unlockingScript: UnlockingScript.fromHex('00'), sequence: 1
    }], [{ lockingScript: new P2PKH().lock(owner.toAddress()), satoshis: satoshis * scripts.length + 1000 }])
    parent.merklePath = new MerklePath(850000, [[
      { offset: 0, hash: parent.id('hex'), txid: true }, { offset: 1, hash: '22'.repeat(32) }
    ]])
    const transaction = new Transaction()
    transaction.addInput({
      sourceTransaction: parent, sourceOutputIndex: 0, unlockingScriptTemplate: new P2PKH().unlock(owner)
    })
    for (const script of scripts) transaction.addOutput({ lockingScript: LockingScript.fromHex(script), satoshis })
    await transaction.sign()
    return { beef: transaction.toHexBEEF(), txid: transaction.id('hex') }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { op, timeoutMs, ...rest } = JSON.parse(line)
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs)
  })
  let answer
  try {
    answer = { value: await Promise.race([operations[op]({ ...rest, timeoutMs }), late]) }
  } catch (error) {
    answer = { error: String(error?.message ?? error) }
  }
  clearTimeout(timer)
  process.stdout.write(JSON.stringify(answer) + '\n')
}
process.exit(0)
